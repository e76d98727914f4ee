# bash completion of tierctl: source <(tierctl completion bash)

# The words are split at blanks as they were typed: bash's own COMP_WORDS are split at = and : too.
_tierctl() {
	local line=${COMP_LINE:0:COMP_POINT} words answer how=4 last stays
	read -ra words <<<"$line"
	[[ $line == *[[:blank:]] ]] && words+=('')
	last=${words[${#words[@]} - 1]}
	stays=${last%"${last##*[=:]}"} # what bash takes for a word of its own
	COMPREPLY=()
	while IFS= read -r answer; do
		if [[ $answer == :* ]]; then
			how=${answer#:}
		else
			answer=${answer%%$'\t'*}
			COMPREPLY+=("${answer#"$stays"}")
		fi
	done < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2>/dev/null)
	((how & 2)) && compopt -o nospace
	if ((!(how & 4))) && ((${#COMPREPLY[@]} == 0)); then
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "${last#"$stays"}")
	fi
}

complete -F _tierctl tierctl
