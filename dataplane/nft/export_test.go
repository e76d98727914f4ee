package nft

// Tests look at these.
var (
	ForeignMessage = foreign
	Explicit       = explicit
	Check          = check
)

// Unowned makes the Conn behave as on a kernel before 6.9, whose tables have no owner that persists.
func (c *Conn) Unowned() { c.flags = 0 }
