"""The public functions: what `import q3edge` offers and what the commands call.

Nothing heavy is imported before a call. arguments: what each argument may be; requests: arguments -> what the pipelines
take; making, judging, reporting, loading: the functions.
"""
