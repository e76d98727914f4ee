# PowerShell completion of tierctl: tierctl completion powershell | Out-String | Invoke-Expression

Register-ArgumentCompleter -Native -CommandName tierctl -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -le $cursorPosition } | ForEach-Object { $_.Extent.Text })
    if ($wordToComplete -eq '') {
        $words += '""' # older PowerShells drop an empty argument
    }
    $program = $words[0]
    $rest = @($words | Select-Object -Skip 1)
    & $program __complete @rest 2>$null | Where-Object { $_ -notmatch '^:\d+$' } | ForEach-Object {
        $word, $what = $_ -split "`t", 2
        if (-not $what) { $what = $word }
        [System.Management.Automation.CompletionResult]::new($word, $word, 'ParameterValue', $what)
    }
}
