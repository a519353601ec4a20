import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("readme_left")
def test_what_the_page_shows_runs(run_page):
    run_page("scale.md")
