package ruleset

// CompileWorth is Compile where so many rules are worth a map by port.
var CompileWorth = compile
