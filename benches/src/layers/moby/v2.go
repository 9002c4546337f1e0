// Stands in for a package that Debian leaves out; the driver names its type in code about plugins, which
// no row comes by.
package v2

import (
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/pkg/plugingetter"
)

type Plugin struct {
	plugingetter.CompatPlugin
	PluginObj types.Plugin
}
