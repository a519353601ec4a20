import pytest


@pytest.mark.slow
def test_what_the_page_shows_runs(run_page):
    run_page("tokenizers.md")
