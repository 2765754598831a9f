"""The verbs as functions: each joins the packages that do the work and writes one folder."""
