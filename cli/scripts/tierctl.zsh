#compdef tierctl
# zsh completion of tierctl: source <(tierctl completion zsh)

_tierctl() {
	local line how=4 word rest blank=' '
	local -a candidates nospace
	for line in "${(@f)$("${(Q)words[1]/#\~/$HOME}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
		if [[ $line == :* ]]; then
			how=${line#:}
			continue
		fi
		word=${line%%$'\t'*}
		rest=${line#$word}
		candidates+=("${word//:/\\:}${rest:+:${rest#$'\t'}}")
	done
	((how & 2)) && nospace=(-S '')
	if (($#candidates)); then
		_describe -V 'word' candidates $nospace
	elif ((!(how & 4))); then
		compset -P '*[=:]'
		_files
	fi
}

compdef _tierctl tierctl
