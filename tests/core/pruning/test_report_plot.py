import torch as th

import rl_crop


def test_a_report_draws_its_layers(tmp_path):
    net = th.nn.Sequential(th.nn.Linear(3, 8), th.nn.ReLU(), th.nn.Linear(8, 6), th.nn.ReLU(), th.nn.Linear(6, 1))
    report = rl_crop.prune_model(
        net, None, None, sparsity=0.5, criterion="magnitude", compensation="none", example_inputs=th.zeros(1, 3)
    )
    [axes] = report.plot(str(tmp_path / "cut.png")).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(report.widths) == ["0", "2"]
    lengths = [int(bar.get_width()) for bar in axes.patches]
    assert lengths == [8, 6, *(after for _, after in report.widths.values())]
    assert (tmp_path / "cut.png").stat().st_size > 0
