# fish completion of tierctl: tierctl completion fish | source

function __tierctl_words
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] 2>/dev/null)
        switch $line
            case ':*'
                # no candidate, and a file may stand here
                if test (math "bitand("(string sub -s 2 -- $line)", 4)") -eq 0; and not set -q found
                    __fish_complete_path (commandline -ct)
                end
            case '*'
                set -l found yes
                echo $line
        end
    end
end

complete -c tierctl -f -a '(__tierctl_words)'
