package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/cli/early"
)

// pluginName is what kubectl looks for when it is asked for kubectl tierwall.
const pluginName = "kubectl-tierwall"

// plugin tells whether this is kubectl's plugin: the same program by another name. Its datastore is then kubectl's cluster unless
// somebody says another.
func plugin() bool {
	name := filepath.Base(os.Args[0])
	return name == pluginName || name == early.KubectlName
}

// speakAsPlugin has the help and the errors say what is typed.
func speakAsPlugin(app *cli.App) {
	const typed = "kubectl tierwall"
	say := strings.NewReplacer("tierctl ", typed+" ")
	app.Name, app.UsageText = typed, say.Replace(app.UsageText)
	each(app.Commands, func(c *cli.Command) {
		c.UsageText, c.Description = say.Replace(c.UsageText), say.Replace(c.Description)
	})
}
