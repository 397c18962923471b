"""The board: read-only web pages that show what fires, what was done about it, and who is needed.

The pages show the same views as the text output of the actions. `board_routes` finds the page of a
request, a module `..._page` collects what a page shows, `templates` renders it with Jinja2, and
`page_cache` keeps each rendered page for a second, so that many viewers cost as much as one.

Nothing on a page changes anything: approvals are answered in StackStorm's Web UI, silences are
created in Alertmanager's own form, and everything else is a command to copy.
"""
