#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the completion of a program for bash or zsh, made from what the program says of itself.

    make_completion.py bash|zsh PROGRAM

--help names options, their values and commands. Which words a value may be is what the program
answers to a wrong one; --help stands behind that, so that nothing is ever begun.
"""

import re
import subprocess
import sys
from pathlib import Path

_OPTION = re.compile(r"^  (--[a-z0-9-]+)(?:=(\S+))?$")
_ITEM = re.compile(r"^  ([a-z][a-z-]*)(?: (\S+))?$")
_CHOICES = re.compile(r" takes one of (.+), not '\?'")
_WORDS = re.compile(r"^[a-z0-9-]+(\|[a-z0-9-]+)+$")
# Values of these names are no words of a list: asking for one takes a start of the program.
_NO_CHOICES = {"N", "S", "MS", "SIZE", "BYTES", "SECONDS", "PID", "TEXT", "NAME", "LIST", "PERCENT"}
# A value of such a name is a file.
_PATHS = re.compile(r"PATH|FILE|DIR|LAYER|SOCKET|PROGRAM|WHERE")


class Option:
    def __init__(self, name, value, help_text, choices):
        self.name = name
        self.value = value  # its name; "" for a flag
        self.help = help_text
        self.choices = choices
        self.is_file = not choices and bool(_PATHS.search(value))


def _run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def _choices(program, name, value):
    if _WORDS.match(value):
        return value.split("|")
    if value in _NO_CHOICES or _PATHS.search(value):
        return []
    found = _CHOICES.search(_run(program, f"{name}=?", "--help").stderr)
    return found.group(1).split(", ") if found else []


def read_program(program):
    """The options and the commands, {name: (value, words)}, of a program."""
    usage = _run(program, "--help")
    if usage.returncode != 0:
        raise SystemExit(f"{program} --help: exit status {usage.returncode}")
    lines = usage.stdout.splitlines()
    options, commands = [], {}
    for number, line in enumerate(lines):
        option, item = _OPTION.match(line), _ITEM.match(line)
        if option:
            help_text = []
            for following in lines[number + 1 :]:
                if not following.startswith("      "):
                    break
                help_text.append(following.strip())
            value = option.group(2) or ""
            choices = _choices(program, option.group(1), value) if value else []
            options.append(Option(option.group(1), value, " ".join(help_text), choices))
        elif item:
            value = (item.group(2) or "").strip("[].")
            commands[item.group(1)] = (value, value.split("|") if _WORDS.match(value) else [])
    return options, commands


def _first_word(usage):
    """Words that stand first: `Usage: outrigger-bench blk|rng|... --a=SOCKET`."""
    found = re.match(r"Usage: \S+ ([a-z]+(?:\|[a-z]+)+) ", usage)
    return found.group(1).split("|") if found else []


def bash_text(name, options, commands, first):
    function = "_" + name.replace("-", "_")
    valued = [option for option in options if option.value]
    words = [option.name + ("=" if option.value else "") for option in options]
    cases = "".join(
        f"        {option.name}) words='{' '.join(option.choices)}' ;;\n" for option in valued if option.choices
    )
    files = "|".join(option.name for option in valued if option.is_file)
    if files:
        cases += f"        {files}) files=yes ;;\n"
    values = "".join(f"        {command}) words='{' '.join(each)}' ;;\n" for command, (_, each) in commands.items() if each)
    file_commands = "|".join(command for command, (value, _) in commands.items() if _PATHS.search(value))
    if file_commands:
        values += f"        {file_commands}) files=yes ;;\n"
    return f"""# SPDX-License-Identifier: Apache-2.0
# bash completion of {name}, made from its options.
{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous= option= words= files=
    ((COMP_CWORD > 0)) && previous=${{COMP_WORDS[COMP_CWORD - 1]}}
    COMPREPLY=()
    # "--name=value" comes as three words.
    if [[ $current == = ]]; then
        option=$previous current=
    elif [[ $previous == = ]]; then
        option=${{COMP_WORDS[COMP_CWORD - 2]}}
    elif [[ " {' '.join(option.name for option in valued)} " == *" $previous "* ]]; then
        option=$previous
    fi
    if [[ $option ]]; then
        case $option in
{cases}        esac
    elif [[ $current == -* ]]; then
        words='{' '.join(words)}'
        compopt -o nospace
    else
        case $previous in
{values}        *) words='{' '.join([*first, *commands])}' ;;
        esac
    fi
    if [[ $files ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    fi
    # A flag, a value or a command is complete: a blank follows.
    if [[ ! $option && $current == -* && ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} != *= ]]; then
        compopt +o nospace
    fi
}}
complete -F {function} {name}
"""


def _zsh_quoted(text):
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, "\\" + special)
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_option(option):
    spec = option.name + ("=" if option.value else "")
    text = _zsh_quoted(option.help)[1:-1]
    action = ""
    if option.value:
        values = f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_file else " "
        action = f":{_zsh_quoted(option.value)[1:-1]}:{values}"
    return f"    '{spec}[{text}]{action}'"


def zsh_text(name, options, commands, first):
    lines = ["    '*" + _zsh_option(option).strip()[1:] for option in options]
    words = [*first, *commands]
    if words:
        lines.append(f"    '1:command:({' '.join(words)})'")
        lines.append("    '*:value:_files'")
    body = " \\\n".join(lines)
    return f"""#compdef {name}
# SPDX-License-Identifier: Apache-2.0
# zsh completion of {name}, made from its options.
_arguments \\
{body}
"""


def main():
    shell, program = sys.argv[1], sys.argv[2]
    name = Path(program).name
    options, commands = read_program(program)
    first = _first_word(_run(program, "--help").stdout)
    make = {"bash": bash_text, "zsh": zsh_text}[shell]
    sys.stdout.write(make(name, options, commands, first))


if __name__ == "__main__":
    main()
