"""Finished models in other programs' hands, one file for each program. Nothing else in q3edge imports these."""
