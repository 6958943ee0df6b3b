"""Functions and constants of C: activations, layers, preparation of observations, decisions."""

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """
    An activation in C.

    :param name: of the function
    :param attributes: of the module, passed after ``x``
    :param body: of the function, an expression of ``x`` and the attributes; empty where <math.h> has the function
    """

    name: str
    attributes: tuple[str, ...] = ()
    body: str = ""

    def define(self) -> str:
        """:return: the function."""
        if not self.body:
            return ""
        arguments = ", ".join(f"float {name}" for name in ("x", *self.attributes))
        return f"static float {self.name}({arguments})\n{{\n    return {self.body};\n}}\n"

    def call(self, module: nn.Module, x: str) -> str:
        """:return: the function's value at ``x``."""
        return f"{self.name}({', '.join([x, *(number(getattr(module, name)) for name in self.attributes)])})"


_SIGMOID = "1.0f / (1.0f + expf(-x))"

ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation("tanhf"),
    nn.ReLU: Activation("relu", body="x > 0.0f ? x : 0.0f"),
    nn.LeakyReLU: Activation("leaky_relu", ("negative_slope",), "x > 0.0f ? x : negative_slope * x"),
    nn.ELU: Activation("elu", ("alpha",), "x > 0.0f ? x : alpha * expm1f(x)"),
    nn.CELU: Activation("celu", ("alpha",), "x > 0.0f ? x : alpha * expm1f(x / alpha)"),
    nn.SELU: Activation("selu", body="1.05070098f * (x > 0.0f ? x : 1.67326324f * expm1f(x))"),
    nn.SiLU: Activation("silu", body=f"x * ({_SIGMOID})"),
    nn.Sigmoid: Activation("sigmoid", body=_SIGMOID),
    nn.LogSigmoid: Activation("log_sigmoid", body="fminf(x, 0.0f) - log1pf(expf(-fabsf(x)))"),
    nn.Softplus: Activation(
        "softplus", ("beta", "threshold"), "beta * x > threshold ? x : log1pf(expf(beta * x)) / beta"
    ),
    nn.Mish: Activation("mish", body="x * tanhf(x > 20.0f ? x : log1pf(expf(x)))"),
    nn.Softsign: Activation("softsign", body="x / (1.0f + fabsf(x))"),
    nn.Hardtanh: Activation("hardtanh", ("min_val", "max_val"), "fminf(fmaxf(x, min_val), max_val)"),
    nn.ReLU6: Activation("relu6", body="fminf(fmaxf(x, 0.0f), 6.0f)"),
    nn.Hardsigmoid: Activation("hardsigmoid", body="fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f"),
    nn.Hardswish: Activation("hardswish", body="x * fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f"),
}  # fmt: skip
_GELU = {
    "none": Activation("gelu", body="0.5f * x * (1.0f + erff(x * 0.707106781f))"),
    "tanh": Activation("gelu_tanh", body="0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)))"),
}

# The same as functions and as methods of a tensor; further arguments are in the order of the module's.
AS_MODULE: dict[Any, type[nn.Module]] = {
    th.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh, th.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU,
    th.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU,
    F.celu: nn.CELU, F.selu: nn.SELU, F.silu: nn.SiLU, F.gelu: nn.GELU, F.softplus: nn.Softplus, F.mish: nn.Mish,
    F.relu6: nn.ReLU6, F.hardtanh: nn.Hardtanh, F.hardswish: nn.Hardswish, F.softsign: nn.Softsign,
}  # fmt: skip

FUNCTIONS = {
    "linear": """
/* y = W x + b; a row of the weights is what one input gives to all outputs. */
static void linear(const float *restrict x, const float *restrict weight, const float *restrict bias,
                   int n_in, int n_out, float *restrict y)
{
    for (int j = 0; j < n_out; j++)
        y[j] = bias[j];
    for (int i = 0; i < n_in; i++)
        for (int j = 0; j < n_out; j++)
            y[j] += x[i] * weight[i * n_out + j];
}
""",
    "layer_norm": """
static void layer_norm(const float *x, const float *gain, const float *shift, float eps, int n, float *y)
{
    float mean = 0.0f, variance = 0.0f;
    for (int i = 0; i < n; i++)
        mean += x[i] / (float)n;
    for (int i = 0; i < n; i++)
        variance += (x[i] - mean) * (x[i] - mean) / (float)n;
    for (int i = 0; i < n; i++)
        y[i] = (x[i] - mean) / sqrtf(variance + eps) * gain[i] + shift[i];
}
""",
    "batch_norm": """
/* With the statistics of training: the gain holds their standard deviation. */
static void batch_norm(const float *x, const float *center, const float *gain, const float *shift, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = (x[i] - center[i]) * gain[i] + shift[i];
}
""",
    "normalize": """
/* The running statistics of the environment's observations. */
static void normalize(const float *x, const double *mean, const double *std, double clip, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = (float)fmin(fmax((x[i] - mean[i]) / std[i], -clip), clip);
}
""",
    "one_hot": """
static void one_hot(const float *x, const int *sizes, int n, float *y)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < sizes[i]; j++)
            *y++ = j == (int)x[i] ? 1.0f : 0.0f;
}
""",
    "best": """
/* The first of the largest scores among those that the mask allows. */
static int best(const float *scores, const unsigned char *mask, int n)
{
    int place = -1;
    for (int i = 0; i < n; i++)
        if ((!mask || mask[i]) && (place < 0 || scores[i] > scores[place]))
            place = i;
    return place < 0 ? 0 : place;
}
""",
}


def activation_of(module: nn.Module) -> Activation | None:
    """:return: what stands for a module of torch; ``None`` where there is nothing."""
    if type(module) is nn.GELU:
        return _GELU[module.approximate]
    return ACTIVATIONS.get(type(module))


def number(value: float, suffix: str = "f") -> str:
    """:return: a floating-point constant of C that reads back as the same number."""
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.{9 if suffix else 17}g}"
    return (text if any(mark in text for mark in ".e") else f"{text}.0") + suffix


def array(kind: str, name: str, values: th.Tensor) -> str:
    """:return: the definition of an array of ``float``, ``double`` or ``int``, of any shape."""
    flat = values.detach().flatten().tolist()
    texts = [str(value) if kind == "int" else number(value, "f" if kind == "float" else "") for value in flat]
    lines = [", ".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    size = " * ".join(map(str, values.shape))
    return f"static const {kind} {name}[{size}] = {{\n    " + ",\n    ".join(lines) + "\n};\n"
