package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
)

func nodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "look at the machine itself", UsageText: "tierctl node status|diags|checksystem",
		Subcommands: []*cli.Command{nodeStatusCommand(), nodeDiagsCommand(), {
			Name: "checksystem", Usage: "whether the kernel has what the agent needs, and who else filters packets", UsageText: "tierctl node checksystem [-o json]",
			Description: "Tries each feature of nftables that the agent's tables use, in a network namespace of its own that is gone\n" +
				"afterwards. Then it says which other programs' rules it finds here that decide on packets beside the agent's: a packet passes only\n" +
				"where all of them let it. It needs root. Exit status 1: something that cannot be done without is missing.",
			Flags:  []cli.Flag{outputFlag("json (one line a feature, and one a program)")},
			Action: checkSystem,
		}},
	}
}

func checkSystem(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	features, err := nft.Features()
	if err != nil {
		return fmt.Errorf("checking the kernel: %w", err)
	}
	others, err := nft.Enforcers()
	if err != nil {
		return fmt.Errorf("looking for other programs' rules: %w", err)
	}
	if format == "json" {
		err = errors.Join(writeFeatures(c, features), writeEnforcers(c, others))
	} else {
		err = errors.Join(printFeatures(c, features), printEnforcers(c, others))
	}
	if err != nil {
		return err
	}
	return nft.Lacking(features)
}

// featureView is what node checksystem -o json says of one feature.
type featureView struct {
	Name     string `json:"name"`
	For      string `json:"neededFor"`
	Since    string `json:"minimumKernel"`
	Optional bool   `json:"optional"`
	Present  bool   `json:"present"`
	Reason   string `json:"reason,omitempty"`
}

func writeFeatures(c *cli.Context, features []nft.Feature) error {
	encoder := json.NewEncoder(c.App.Writer)
	encoder.SetEscapeHTML(false)
	for _, f := range features {
		v := featureView{Name: f.Name, For: f.For, Since: f.Since, Optional: f.Optional, Present: f.Missing == nil}
		if f.Missing != nil {
			v.Reason = f.Missing.Error()
		}
		if err := encoder.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

func printFeatures(c *cli.Context, features []nft.Feature) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "Kernel %s\n\nFEATURE\t%s\tSINCE KERNEL\tFOR\n", kernelVersion(), paint(c.App.Writer, normal, "PRESENT"))
	for _, f := range features {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, presence(c.App.Writer, f), f.Since, f.For)
	}
	return w.Flush()
}

// enforcerView is what node checksystem -o json says of another program.
type enforcerView struct {
	Program string `json:"program"`
	Does    string `json:"does"`
	Found   string `json:"found"`
	Chains  int    `json:"chains"`
	Policy  bool   `json:"policy"`
}

func writeEnforcers(c *cli.Context, all []nft.Enforcer) error {
	encoder := json.NewEncoder(c.App.Writer)
	encoder.SetEscapeHTML(false)
	for _, e := range all {
		if err := encoder.Encode(enforcerView{Program: e.Name, Does: e.What, Found: e.Found, Chains: e.Count, Policy: e.Policy}); err != nil {
			return err
		}
	}
	return nil
}

func printEnforcers(c *cli.Context, all []nft.Enforcer) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 3, ' ', 0)
	if len(all) == 0 {
		fmt.Fprintln(w, "\nNo other program's rules decide on packets here.")
		return w.Flush()
	}
	fmt.Fprint(w, "\nOTHERS\tDO\tFOUND\n")
	for _, e := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Name, e.What, e.Where())
	}
	if all[0].Policy {
		fmt.Fprintln(w, "\nTwo programs that enforce network policy are one too many: a packet passes only where both let it.")
	}
	return w.Flush()
}

func presence(w io.Writer, f nft.Feature) string {
	switch {
	case f.Missing == nil:
		return paint(w, normal, "yes")
	case f.Optional:
		return paint(w, yellow, "no (optional)")
	}
	return paint(w, red, "NO")
}

// kernelVersion as uname tells it.
func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of an unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
