// Package early answers a shell that wants a word completed, and tierctl version --client, before the rest of the program has begun.
//
// What the program consists of takes some 60 ms to begin: every package of every library prepares its tables, regular expressions and
// metrics, whether or not they will be used, and Go has no way to say later. A shell asks at each press of a key. Packages begin when all
// that they import has begun, in the order of their paths, and this one imports so little that it is among the first: its init answers and
// ends the process. It answers only when it can do so for certain: when no name of an object is asked for, or the store is a file and the command
// line or the environment says which. Otherwise it does nothing, and the program answers the same from the same package complete.
package early

import (
	_ "embed"
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/tierwall/tierwall/cli/complete"
	"github.com/tierwall/tierwall/controllers/store/key"
)

// program.json is what cli's commands say of themselves; cli's tests hold that.
//
//go:embed program.json
var program []byte

// Command is the word behind which a shell hands over the words of the command line, and KubectlName what the program is called when it is
// kubectl that does.
const (
	Command     = "__complete"
	KubectlName = "kubectl_complete-tierwall"
)

func init() {
	words, asked := Words(os.Args)
	if asked && answer(words, os.Getenv, os.Stdout) || told(os.Args, os.Stdout) {
		os.Exit(0)
	}
}

// Words are those to complete, when that is what the program was started for.
func Words(args []string) ([]string, bool) {
	switch {
	case len(args) == 0:
		return nil, false
	case args[0][strings.LastIndexByte(args[0], '/')+1:] == KubectlName:
		return args[1:], true
	case len(args) > 1 && args[1] == Command:
		return args[2:], true
	}
	return nil, false
}

// answer tells whether it has.
func answer(words []string, env func(string) string, out io.Writer) bool {
	var p complete.Program
	if json.Unmarshal(program, &p) != nil {
		return false
	}
	line := p.Read(words)
	kinds := line.Live()
	if len(kinds) == 0 {
		return line.Print(out, line.Candidates()) == nil
	}
	path := file(line, env)
	if path == "" {
		return false
	}
	have, _ := key.Read(path, kinds...) // of a file that cannot be read no names are known
	return line.Print(out, line.Named(have)) == nil
}

// file is where the objects are, if that is a file for certain.
func file(line *complete.Line, env func(string) string) string {
	where := line.Flag("datastore")
	if where == "" {
		where = env("TIERWALL_DATASTORE")
	}
	path, _ := strings.CutPrefix(where, "bolt:")
	if path == where {
		return ""
	}
	return path
}
