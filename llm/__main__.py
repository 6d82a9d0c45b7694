"""`python -m llm`: see llm/cli/parser.py."""

from llm.common.errors import exit_on_signals

exit_on_signals()  # the imports of the parser take half a second

from llm.cli.parser import main  # noqa: E402

main()
