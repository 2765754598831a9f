"""The public functions, offered by `import q3edge` and called by the commands.

Nothing heavy is imported before a call. arguments: type and range of each argument; requests: arguments -> options of
the pipelines; making, judging, reporting, loading: the functions.
"""
