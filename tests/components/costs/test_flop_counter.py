"""The counter against the size of one product, in place and not."""

import torch

from components.costs.flop_counter import flop_counter


def test_a_product_counts_whether_it_is_added_in_place_or_not() -> None:
    total, left, right = torch.zeros(4, 5), torch.randn(4, 6), torch.randn(6, 5)
    for add in (total.addmm, total.addmm_):
        with flop_counter() as counter:
            add(left, right, alpha=2.0)
        assert counter.get_total_flops() == 2 * 4 * 6 * 5
