"""An OpenAI-compatible HTTP server: Starlette and uvicorn around models and the engine that their requests share.

endpoints: one file each; guard: what holds for every request; driver: who makes the passes; serving: start to end.
"""
