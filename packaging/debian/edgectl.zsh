#compdef edgectl
# Completion of edgectl for zsh: edgectl itself knows what can come next.

eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _EDGECTL_COMPLETE=complete_zsh edgectl)"
