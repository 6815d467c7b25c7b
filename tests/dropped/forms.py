"""One small network for each form in which exporters write an operator: a table.

Each is a convolution with batch norm, the form, and a classifier behind it, or an output of its
own. What is served has to be what ONNX Runtime gives in float, but for the errors of 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from dropped.nets import CHANNELS, SIDE, network

__all__ = ["FORMS", "Form"]


@dataclass(frozen=True)
class Form:
    """A form.

    Attributes:
        name: of the form.
        body: nodes from ``x``, float32 [N, 16, 24, 24], to ``y``, which a classifier reads; or to
            ``output``.
        channels: of ``y``.
        output: shape of ``output`` where the form has its own.
        signed: whether ``x`` comes without a ReLU.
        side: height and width of the input.
    """

    name: str
    body: str
    channels: int = CHANNELS
    output: str = ""
    opset: int = 17
    signed: bool = False
    side: int = SIDE

    def model(self) -> onnx.ModelProto:
        """The network."""
        trunk = (
            "t = Conv<pads=[1,1,1,1]>(input, w[16,3,3,3], b[16])\n"
            "x_ = BatchNormalization(t, ramp[.6,1.4], ramp[-.3,.3], ramp[-.2,.2], ramp[.5,1.5])\n"
        )
        trunk += "x = Identity(x_)\n" if self.signed else "x = Relu(x_)\n"
        head = (
            f"h = Conv<pads=[1,1,1,1]>(y, w[32,{self.channels},3,3], b[32])\n"
            "r = Relu(h)\np = GlobalAveragePool(r)\nv = Flatten(p)\n"
            "output = Gemm<transB=1>(v, w[10,32], b[10])"
        )
        return network(
            f"float[N,3,{self.side},{self.side}] input",
            f"float[{self.output or 'N,10'}] output",
            trunk + self.body + ("" if self.output else f"\n{head}"),
            opset=self.opset,
            ir=10 if self.opset > 20 else 8,
        )


_GAP = "p_ = GlobalAveragePool({})\nv_ = Flatten(p_)\n"
_SAME = "<pads=[1,1,1,1]>"

FORMS: tuple[Form, ...] = (
    # Activations.
    Form("hardswish", "y = HardSwish(x)", signed=True),
    Form("leakyrelu", "y = LeakyRelu<alpha=0.1>(x)", signed=True),
    Form("elu", "y = Elu(x)", signed=True),
    Form("gelu20", "y = Gelu(x)", signed=True, opset=20),
    Form("sigmoid", "y = Sigmoid(x)", signed=True),
    Form("hardsigmoid", "y = HardSigmoid<alpha=0.1666667, beta=0.5>(x)", signed=True),
    Form("softplus", "y = Softplus(x)", signed=True),
    Form("silu", "s = Sigmoid(x)\ny = Mul(x, s)", signed=True),
    Form("mish", "s = Softplus(x)\nu = Tanh(s)\ny = Mul(x, u)", signed=True),
    Form("prelu", "y = PRelu(x, rampc[0,.4])", signed=True),
    Form("clip_min_only", "y = Clip(x, f(0.2))"),
    Form("clip_neg1_1_hardtanh", "y = Clip(x, f(-1), f(1))", signed=True),
    Form("clip_above_zero", "y = Clip(x, f(0.5), f(2))", signed=True),
    Form("relu_then_clip_max", "r_ = Relu(x)\ny = Clip(r_, , f(1.3))", signed=True),
    Form("relu_via_max0", "y = Max(x, f(0))", signed=True),
    Form("abs_neg", "m = Neg(x)\ny = Abs(m)", signed=True),
    Form("dropout_identity", "d = Dropout(x, f(0.5))\ny = Identity(d)", signed=True),
    # Attention, and arithmetic with constants and between tensors.
    Form(
        "se_block",
        "g = GlobalAveragePool(x)\na = Conv(g, w[4,16,1,1], b[4])\nc = Relu(a)\n"
        "d = Conv(c, w[16,4,1,1], b[16])\ns = Sigmoid(d)\ny = Mul(x, s)",
    ),
    Form(
        "spatial_attention",
        "a = Conv<pads=[3,3,3,3]>(x, w[1,16,7,7], b[1])\ns = Sigmoid(a)\ny = Mul(x, s)",
    ),
    Form("mul_scalar", "y = Mul(x, f(0.5))"),
    Form("mul_per_channel", "y = Mul(x, rampc[-1,2])"),
    Form("div_scalar_first", "a = Add(x, f(1))\ny = Div(f(3), a)"),
    Form("sub_from_const", "y = Sub(f(1), x)"),
    Form("add_spatial_const", "y = Add(x, n[1,1,24,24])"),
    Form("add_full_const", "y = Add(x, n[1,16,24,24])"),
    Form(
        "add_broadcast",
        f"a = Conv{_SAME}(x, w[16,16,3,3], b[16])\ng = GlobalAveragePool(a)\ny = Add(x, g)",
    ),
    Form("add_self", "y = Add(x, x)"),
    Form("sum3", f"a = Conv{_SAME}(x, w[16,16,3,3])\nc = Conv(x, w[16,16,1,1])\ny = Sum(x, a, c)"),
    Form("sub_tensors", f"a = Conv{_SAME}(x, w[16,16,3,3], b[16])\ny = Sub(x, a)"),
    Form("max_tensors_maxout", f"a = Conv{_SAME}(x, w[16,16,3,3], b[16])\ny = Max(x, a)"),
    Form("where_mask", "a = Conv(x, w[1,16,1,1])\ng = Greater(a, f(0))\ny = Where(g, x, f(0))"),
    # Joining, splitting, moving.
    Form(
        "concat_bn_relu",
        f"a = Conv{_SAME}(x, w[16,16,3,3])\nc = Relu(a)\nd = Concat<axis=1>(x, c)\n"
        "e = BatchNormalization(d, n[32], b[32], b[32], v[32])\ny = Relu(e)",
        channels=32,
    ),
    Form(
        "concat_very_different_scales",
        f"a = Conv{_SAME}(x, w[16,16,3,3])\nc = Mul(a, f(40))\ny = Concat<axis=1>(x, c)",
        channels=32,
    ),
    Form(
        "split_concat",
        f"a, c = Split<axis=1>(x, i[8,8])\nd = Conv{_SAME}(a, w[8,8,3,3])\n"
        "y = Concat<axis=1>(d, c)",
    ),
    Form("slice_channels", "y = Slice(x, i[0], i[8], i[1])", channels=8),
    Form(
        "focus_slices",
        "\n".join(
            f"q{row}{column} = Slice(x, i[{row},{column}], i[9999,9999], i[2,3], i[2,2])"
            for row in (0, 1)
            for column in (0, 1)
        )
        + "\ny = Concat<axis=1>(q00, q10, q01, q11)",
        channels=64,
    ),
    Form("flip_negative_step", "y = Slice(x, i[-1], i[-9223372036854775807], i[3], i[-1])"),
    Form(
        "channel_shuffle",
        "a = Reshape(x, i[-1,4,4,24,24])\nc = Transpose<perm=[0,2,1,3,4]>(a)\n"
        "y = Reshape(c, i[-1,16,24,24])",
    ),
    Form("space_to_depth", "y = SpaceToDepth<blocksize=2>(x)", channels=64),
    Form("depth_to_space", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', channels=4),
    Form("gather_channels", "y = Gather<axis=1>(x, i[15,14,13,12,11,10,9,8,7,6,5,4,3,2,1,0])"),
    Form("einsum", 'y = Einsum<equation="nchw,ck->nkhw">(x, w[16,8])', channels=8),
    Form("cumsum", "c = CumSum(x, i(3))\ny = Mul(c, f(.1))"),
    # Resizing and transposed convolutions.
    Form(
        "resize_nearest",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",'
        ' nearest_mode="floor">(x, , f[1,1,2,2])',
    ),
    Form(
        "resize_bilinear_sizes",
        'y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">'
        "(x, , , i[1,16,31,17])",
    ),
    Form(
        "resize_align_corners",
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">'
        "(x, , f[1,1,2,2])",
    ),
    Form(
        "convtranspose_outpad",
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w[16,16,3,3])",
    ),
    Form(
        "convtranspose_2x2",
        "a = ConvTranspose<strides=[2,2]>(x, w[16,16,2,2])\ny = Relu(a)",
    ),
    # Convolutions.
    Form(
        "dilated_depthwise_asym",
        "y = Conv<group=16, dilations=[2,2], pads=[4,0,0,4]>(x, w[16,1,3,3], b[16])",
    ),
    Form("depthwise_dilation_3_2", "y = Conv<group=16, dilations=[3,2]>(x, w[16,1,3,3])"),
    Form(
        "depthwise_multiplier2",
        "y = Conv<group=16, pads=[1,1,1,1]>(x, w[32,1,3,3], b[32])",
        channels=32,
    ),
    Form("group4", "y = Conv<group=4, pads=[1,1,1,1]>(x, w[16,4,3,3], b[16])"),
    Form("stride_gt_kernel", "y = Conv<strides=[3,3]>(x, w[16,16,1,1], b[16])"),
    Form("kernel_1x7", "y = Conv<pads=[0,3,0,3]>(x, w[16,16,1,7], b[16])"),
    Form("kernel_15", "y = Conv<pads=[7,7,7,7]>(x, w[16,16,15,15], b[16])"),
    Form(
        "kernel_even_4_same_upper",
        'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w[16,16,4,4])',
    ),
    Form("same_lower_s2", 'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w[16,16,3,3])'),
    Form("pad_bigger_than_kernel", "y = Conv<pads=[5,5,5,5]>(x, w[16,16,3,3], b[16])"),
    Form(
        "zeropad_rb_conv_valid",
        "a = Pad(x, i[0,0,0,0,0,0,1,1])\ny = Conv<strides=[2,2]>(a, w[16,16,3,3], b[16])",
    ),
    Form(
        "pad_reflect",
        'a = Pad<mode="reflect">(x, i[0,0,1,1,0,0,1,1])\ny = Conv(a, w[16,16,3,3], b[16])',
    ),
    Form("pad_value", "a = Pad(x, i[0,0,1,1,0,0,1,1], f(0.7))\ny = Conv(a, w[16,16,3,3], b[16])"),
    Form(
        "pad_axes18",
        "a = Pad(x, i[1,2,2,1], , i[2,3])\ny = Conv(a, w[16,16,3,3], b[16])",
        opset=18,
    ),
    Form("pad_negative_crop", "y = Pad(x, i[0,0,-2,-2,0,0,-1,-1])"),
    Form("pad_channels_shortcutA", "y = Pad(x, i[0,3,0,0,0,5,0,0])", channels=24),
    Form(
        "zeropad_maxpool_negative",
        "a = Pad(x, i[0,0,1,1,0,0,1,1])\ny = MaxPool<kernel_shape=[3,3], strides=[2,2]>(a)",
        signed=True,
    ),
    # Pools.
    *(
        Form(
            f"avgpool_{name}_incl{counted}",
            f"y = AveragePool<{attributes}, count_include_pad={counted}>(x)",
        )
        for counted in (0, 1)
        for name, attributes in (
            ("pad", "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
            ("ceil", "kernel_shape=[3,3], strides=[2,2], ceil_mode=1"),
            ("ceil_pad", "kernel_shape=[5,5], strides=[3,3], pads=[1,1,1,1], ceil_mode=1"),
        )
    ),
    Form(
        "avgpool_same_upper",
        'y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
    ),
    Form("avgpool_dilated19", "y = AveragePool<kernel_shape=[3,3], dilations=[2,2]>(x)", opset=19),
    Form(
        "maxpool_ceil_neg",
        "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
        signed=True,
    ),
    Form(
        "maxpool_pad_neg",
        "y = MaxPool<kernel_shape=[5,5], strides=[1,1], pads=[2,2,2,2]>(x)",
        signed=True,
    ),
    Form("maxpool_dil", "y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)", signed=True),
    Form(
        "sppf",
        "a = MaxPool<kernel_shape=[5,5], strides=[1,1], pads=[2,2,2,2]>(x)\n"
        "c = MaxPool<kernel_shape=[5,5], strides=[1,1], pads=[2,2,2,2]>(a)\n"
        "y = Concat<axis=1>(x, a, c)",
        channels=48,
    ),
    # Norms.
    Form("instancenorm", "y = InstanceNormalization(x, ramp[.5,1.5], ramp[-.5,.5])"),
    Form(
        "groupnorm_torch",
        "a = Reshape(x, i[0,4,-1])\nc = InstanceNormalization(a, f[1,1,1,1], f[0,0,0,0])\n"
        "d = Reshape(c, i[0,16,24,24])\ne = Mul(d, rampc[.5,1.5])\ny = Add(e, rampc[-.5,.5])",
        opset=18,
    ),
    Form(
        "groupnorm21",
        "y = GroupNormalization<num_groups=4>(x, ramp[.5,1.5], ramp[-.5,.5])",
        opset=21,
    ),
    Form(
        "convnext_layernorm",
        "a = Transpose<perm=[0,2,3,1]>(x)\n"
        "c = LayerNormalization<axis=-1>(a, ramp[.5,1.5], ramp[0,0])\n"
        "y = Transpose<perm=[0,3,1,2]>(c)",
    ),
    Form("lrn", "y = LRN<size=5>(x)"),
    # Heads.
    Form(
        "reducemean_keep0",
        "m = ReduceMean<axes=[2,3], keepdims=0>(x)\noutput = Gemm<transB=1>(m, w[10,16], b[10])",
        output="N,10",
    ),
    Form(
        "reducemean18_neg_axes",
        "m = ReduceMean<keepdims=1>(x, i[-1,-2])\nv_ = Flatten(m)\n"
        "output = Gemm<transB=1>(v_, w[10,16], b[10])",
        output="N,10",
        opset=18,
    ),
    Form(
        "reducemax",
        "m = ReduceMax<axes=[2,3], keepdims=0>(x)\noutput = Gemm<transB=1>(m, w[10,16], b[10])",
        output="N,10",
    ),
    Form(
        "two_reducemeans",
        "a = ReduceMean<axes=[3], keepdims=0>(x)\nm = ReduceMean<axes=[2], keepdims=0>(a)\n"
        "output = Gemm<transB=1>(m, w[10,16], b[10])",
        output="N,10",
    ),
    Form(
        "avg_max_concat_head",
        "m = GlobalMaxPool(x)\na = GlobalAveragePool(x)\nc = Concat<axis=1>(a, m)\n"
        "v_ = Flatten(c)\noutput = Gemm<transB=1>(v_, w[10,32], b[10])",
        output="N,10",
    ),
    Form(
        "avgpool_full_reshape",
        "m = AveragePool<kernel_shape=[24,24]>(x)\nv_ = Reshape(m, i[-1,16])\n"
        "output = Gemm<transB=1>(v_, w[10,16], b[10])",
        output="N,10",
    ),
    Form(
        "flatten_gemm",
        "v_ = Flatten(x)\noutput = Gemm<transB=1>(v_, w[10,576], b[10])",
        output="N,10",
        side=6,
    ),
    Form(
        "nhwc_flatten_gemm",
        "a = Transpose<perm=[0,2,3,1]>(x)\nv_ = Reshape(a, i[-1,576])\n"
        "output = Gemm<transB=1>(v_, w[10,576], b[10])",
        output="N,10",
        side=6,
    ),
    Form(
        "matmul_add",
        "v_ = Flatten(x)\nm = MatMul(v_, w[576,10])\noutput = Add(m, b[10])",
        output="N,10",
        side=6,
    ),
    Form(
        "conv_as_matmul_nhwc",
        "a = Transpose<perm=[0,2,3,1]>(x)\nm = MatMul(a, w[16,8])\n"
        "output = Transpose<perm=[0,3,1,2]>(m)",
        output="N,8,24,24",
    ),
    Form(
        "seg_softmax",
        "a = Conv(x, w[5,16,1,1], b[5])\noutput = Softmax<axis=1>(a)",
        output="N,5,24,24",
    ),
    Form(
        "seg_upsample",
        'a = Conv(x, w[5,16,1,1], b[5])\noutput = Resize<mode="linear">(a, , f[1,1,4,4])',
        output="N,5,96,96",
    ),
    Form(
        "tanh_image_out",
        f"a = Conv{_SAME}(x, w[3,16,3,3], b[3])\noutput = Tanh(a)",
        output="N,3,24,24",
    ),
    Form(
        "l2_embedding",
        f"a = Conv{_SAME}(x, w[32,16,3,3], b[32])\nc = Relu(a)\n"
        + _GAP.format("c")
        + "g = Gemm<transB=1>(v_, w[16,32], b[16])\noutput = LpNormalization<axis=1, p=2>(g)",
        output="N,16",
    ),
    Form(
        "l2_embedding_div",
        f"a = Conv{_SAME}(x, w[32,16,3,3], b[32])\nc = Relu(a)\n"
        + _GAP.format("c")
        + "g = Gemm<transB=1>(v_, w[16,32], b[16])\nq = ReduceL2<axes=[1], keepdims=1>(g)\n"
        "output = Div(g, q)",
        output="N,16",
    ),
    # How exporters write a view.
    Form(
        "view_size0_old_torch",
        "s = Shape(x)\nh_ = Gather<axis=0>(s, i(0))\nu = Unsqueeze(h_, i[0])\n"
        "c = Concat<axis=0>(u, i[-1])\ng = GlobalAveragePool(x)\nf_ = Reshape(g, c)\n"
        "output = Gemm<transB=1>(f_, w[10,16], b[10])",
        output="N,10",
    ),
    Form(
        "view_shape_start_end_dynamo",
        "g = GlobalAveragePool(x)\ns = Shape<start=0, end=1>(x)\nc = Concat<axis=0>(s, i[16])\n"
        "f_ = Reshape<allowzero=1>(g, c)\noutput = Gemm<transB=1>(f_, w[10,16], b[10])",
        output="N,10",
        opset=18,
    ),
    Form(
        "shuffle_shape_start_end_dynamo",
        "s = Shape<start=0, end=1>(x)\na = Concat<axis=0>(s, i[4,4,24,24])\n"
        "c = Reshape<allowzero=1>(x, a)\nd = Transpose<perm=[0,2,1,3,4]>(c)\n"
        "e = Concat<axis=0>(s, i[16,24,24])\ny = Reshape<allowzero=1>(d, e)",
        opset=18,
    ),
    # Values with several readers.
    Form(
        "preact_resnet",
        "a = BatchNormalization(x, ramp[.6,1.4], ramp[-.3,.3], ramp[-.2,.2], ramp[.5,1.5])\n"
        f"c = Relu(a)\nd = Conv{_SAME}(c, w[16,16,3,3], b[16])\nz = Add(x, d)\n"
        "e = BatchNormalization(z, ramp[.6,1.4], ramp[-.3,.3], ramp[-.2,.2], ramp[.5,1.5])\n"
        f"k = Relu(e)\nl = Conv{_SAME}(k, w[16,16,3,3], b[16])\ny = Add(z, l)",
    ),
    Form(
        "maxpool_and_skip",
        "a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)\n"
        f"c = Conv{_SAME}(a, w[16,16,3,3], b[16])\nd = Relu(c)\n"
        'u = Resize<mode="nearest">(d, , f[1,1,2,2])\ny = Concat<axis=1>(x, u)',
        channels=32,
        signed=True,
    ),
    Form(
        "maxpool_and_conv_branch",
        "a = MaxPool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]>(x)\n"
        f"c = Conv{_SAME}(a, w[16,16,3,3], b[16])\nd = Conv{_SAME}(x, w[16,16,3,3], b[16])\n"
        "y = Add(c, d)",
        signed=True,
    ),
)
