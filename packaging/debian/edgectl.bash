# Completion of edgectl for bash: edgectl itself knows what can come next.

_edgectl() {
    local IFS=$'\n'
    COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        _EDGECTL_COMPLETE=complete_bash "$1"))
}

complete -o default -F _edgectl edgectl
