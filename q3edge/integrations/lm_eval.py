"""lm-evaluation-harness with the model name `q3edge`, for its releases that look for no plugins (up to 0.4.13):

    python -m q3edge.integrations.lm_eval run --model q3edge --model_args path=DIR --tasks arc_easy

Everything behind the module's name is the harness's own command line. Later releases find the name by q3edge's entry
point in the group `lm_eval.models`, so that `lm_eval --model q3edge` is enough.
"""

from __future__ import annotations

from q3edge.evaluation.lm_eval import Q3EdgeLM

MODEL_NAME = "q3edge"


def register() -> None:
    """Make the name known to the harness of this process."""
    from lm_eval.api.registry import get_model, register_model

    try:
        get_model(MODEL_NAME)
    except (KeyError, ValueError):  # unknown: which of them depends on the release
        register_model(MODEL_NAME)(Q3EdgeLM)


def main() -> None:
    """Run the harness's command line, which reads sys.argv."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
