from collections import Counter

from components.training.budgets import budget_of_step


def test_every_budget_is_trained_about_equally_often_and_by_the_seed() -> None:
    budgets = (1, 2, 4, 8)
    drawn = [budget_of_step(0, step, budgets) for step in range(2000)]
    assert drawn == [budget_of_step(0, step, budgets) for step in range(2000)]
    assert drawn != [budget_of_step(1, step, budgets) for step in range(2000)]
    assert all(abs(count - 500) < 100 for count in Counter(drawn).values())


def test_without_nesting_every_step_trains_all() -> None:
    assert {budget_of_step(0, step, (4,)) for step in range(20)} == {4}
