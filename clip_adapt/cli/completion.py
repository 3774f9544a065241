"""``clip-adapt completion SHELL``: a script by which a shell completes verbs, options and names.

It is written from the files that ``--help`` is written from, and starts no Python when a key is
pressed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clip_adapt.cli.words import VERBS, list_known
from clip_adapt.config import cards, yamls
from clip_adapt.errors import InputError, explain_unknown

SHELLS = ("bash", "zsh", "fish")
MORE = ("help", "completion", "--help", "--version")
BASH = """\
# clip-adapt for {shell}: {how}
_clip_adapt() {{
    local word="${{COMP_LINE:0:COMP_POINT}}" verb="${{COMP_WORDS[1]}}" words=""
    word="${{word##* }}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        words={verbs}
    else
        case "$verb" in
{cases}
        esac
    fi
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
    # What a file is called comes after the words that are known; bash takes "=" for a separator.
    [ ${{#COMPREPLY[@]}} -eq 0 ] && COMPREPLY=( $(compgen -f -- "${{word##*=}}") )
    case "$word" in
        *=*) COMPREPLY=( "${{COMPREPLY[@]#"${{word%%=*}}="}}" ) ;;
    esac
    case "${{COMPREPLY[*]}}" in
        *=) compopt -o nospace 2>/dev/null ;;
    esac
}}
complete -o filenames -F _clip_adapt clip-adapt
"""
FISH = """\
# clip-adapt for fish: clip-adapt completion fish > ~/.config/fish/completions/clip-adapt.fish
{lines}
"""
HOW = {
    "bash": 'eval "$(clip-adapt completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(clip-adapt completion zsh)" in ~/.zshrc',
}
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def write_completion(words: Sequence[str]) -> str:
    """Return the script of a shell.

    Raises:
        InputError: when it is asked for none that is known.
    """
    shell = words[0] if len(words) == 1 else ""
    if shell not in SHELLS:
        raise InputError(explain_unknown("shell", " ".join(words), SHELLS))
    if shell == "fish":
        return FISH.format(lines="\n".join(_list_fish_lines()))
    cases = "\n".join(
        f"            {verb}) words={shlex.quote(' '.join(_list_words(verb)))} ;;" for verb in VERBS
    )
    cases += f"\n            completion) words={shlex.quote(' '.join(SHELLS))} ;;"
    verbs = shlex.quote(" ".join([*VERBS, *MORE]))
    script = BASH.format(shell=shell, how=HOW[shell], verbs=verbs, cases=cases)
    return ZSH * (shell == "zsh") + script


def _list_words(verb: str) -> list[str]:
    keys = [*list_known(verb), "config", "verbose"]
    groups = [group for group in ("method", "dataset", "model") if group in keys]
    named = [f"{group}={name}" for group in groups for name in cards.list_cards(group)]
    own = ["method=auto", *_list_method_options()] if "method" in keys else []
    return [*(f"{key}=" for key in keys), *named, *own, "--help"]


def _list_method_options() -> list[str]:
    files = (cards.locate_card("method", name) for name in cards.list_cards("method"))
    keys = (key for file in files for key in yamls.read_help_texts(file))
    return [f"{key}=" for key in dict.fromkeys(keys) if key.startswith("method.")]


def _list_fish_lines() -> list[str]:
    first = "complete -c clip-adapt -n __fish_use_subcommand -f -a"
    lines = [f"{first} {verb} -d {shlex.quote(meaning)}" for verb, meaning in VERBS.items()]
    lines += [f"{first} {word}" for word in MORE]
    lines += [
        f"complete -c clip-adapt -n '__fish_seen_subcommand_from {verb}' -a "
        f"{shlex.quote(' '.join(_list_words(verb)))}"
        for verb in VERBS
    ]
    shells = shlex.quote(" ".join(SHELLS))
    return [
        *lines,
        f"complete -c clip-adapt -n '__fish_seen_subcommand_from completion' -f -a {shells}",
    ]
