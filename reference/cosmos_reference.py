"""The Cosmos tokenizer networks, stated once and compactly in PyTorch.

Checked equal to the public PyTorch code (float32, relative error under 1e-5, equal indices) for all ten models, and to the
later Cosmos-Tokenize1 code for its eight, at 1, 9 and 17 frames. This file is the executable definition that the C and CUDA
implementation is held to. Parameter names equal those of the public checkpoints (encoder.jit: encoder.*, quant_conv.*;
decoder.jit: post_quant_conv.*, decoder.*; autoencoder.jit: all of them), so a checkpoint loads into it and it saves
checkpoints of the same form.

Layouts: images [B, 3, H, W], videos [B, 3, T, H, W], values in [-1, 1]. Latents [B, C, (t,) h, w]; indices [B, (t,) h, w].
"""
from dataclasses import dataclass, field
import math
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Spec:
    """One tokenizer. kind: C/D = continuous/discrete, I/V = image/video; spatial, temporal = compression factors."""
    kind: str
    spatial: int
    temporal: int = 1
    channels: int = 128
    mult: tuple = (2, 4, 4)
    decoder_mult: tuple = None        # only where the decoder's levels differ from `mult`
    unused_convs: bool = False        # some video checkpoints carry the convolutions of down/up blocks that do nothing
    blocks: int = 2
    patch: int = 4
    z_channels: int = 16
    latent_channels: int = 16         # continuous
    levels: tuple = (8, 8, 8, 5, 5, 5)  # discrete: FSQ levels, 64,000 codes

    @property
    def video(self): return self.kind[1] == "V"

    @property
    def discrete(self): return self.kind[0] == "D"

    @property
    def name(self):
        return f"{self.kind}{self.temporal}x{self.spatial}x{self.spatial}" if self.video else f"{self.kind}{self.spatial}x{self.spatial}"


def spec(name, **over):
    """Spec of a public model by its short name: CI8x8, DI16x16, CV4x8x8, DV8x16x16, ... A suffix -360p names the later
    Cosmos-Tokenize1 form with 2x2(x2) patches; -720p is the same network as no suffix."""
    base_name, _, suffix = name.partition("-")
    kind, factors = base_name[:2], [int(f) for f in base_name[2:].split("x")]
    base = dict(kind=kind, spatial=factors[-1], temporal=factors[0] if kind[1] == "V" else 1)
    if kind == "DI": base["z_channels"] = 256
    if suffix == "360p":
        base["patch"] = 2
        if kind == "DV": base["z_channels"] = 256
    if name == "CV4x8x8": base["mult"] = (2, 4)
    if name in ("CV4x8x8", "CV8x8x8"): base["unused_convs"] = True
    return Spec(**{**base, **over})


NAMES = ("CI8x8", "CI16x16", "DI8x8", "DI16x16", "CV4x8x8", "CV8x8x8", "CV8x16x16", "DV4x8x8", "DV8x8x8", "DV8x16x16")
LATER_NAMES = ("CI8x8-360p", "CI16x16-360p", "DI8x8-360p", "DI16x16-360p", "CV4x8x8-360p", "DV4x8x8-360p", "CV8x8x8-720p", "DV8x16x16-720p")


# ---------------------------------------------------------------- Haar patching
def _split(x, dim):
    """One Haar step along dim: (low, high) of neighbouring pairs, each scaled by 1/2 (the mean and half difference)."""
    even, odd = x.unfold(dim, 2, 2).unbind(-1)
    return (even + odd) * 0.5, (even - odd) * 0.5


def _merge(low, high, dim):
    even, odd = low + high, low - high
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)


def haar(x, dims, steps):
    """[B, C, ...] -> [B, C * 2^(len(dims) * steps), ... / 2^steps]; bands are outermost in the channel order, and the
    first dimension of `dims` varies slowest among them."""
    for _ in range(steps):
        bands = [x]
        for d in dims:
            bands = [half for b in bands for half in _split(b, d)]
        x = torch.cat(bands, 1)
    return x


def inverse_haar(x, dims, steps):
    for _ in range(steps):
        bands = list(x.chunk(2 ** len(dims), 1))
        for d in reversed(dims):
            bands = [_merge(bands[i], bands[i + 1], d) for i in range(0, len(bands), 2)]
        x = bands[0]
    return x


class Patch(nn.Module):
    """The buffers serve nothing here; they are what public checkpoints carry beside the parameters."""
    def __init__(self, s):
        super().__init__()
        self.s, self.steps = s, int(math.log2(s.patch))
        self.register_buffer("wavelets", torch.full((2,), 0.5 ** 0.5), persistent=False)
        self.register_buffer("_arange", torch.arange(2), persistent=False)
        if s.video: self.register_buffer("patch_size_buffer", torch.full((1,), s.patch, dtype=torch.int32), persistent=False)

    def forward(self, x):
        if self.s.video:  # the first frame stands alone: repeat it to fill one temporal patch
            x = torch.cat((x[:, :, :1].repeat_interleave(self.s.patch, 2), x[:, :, 1:]), 2)
            return haar(x, (2, 3, 4), self.steps)
        return haar(x, (3, 2), self.steps)


class Unpatch(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, self.steps = s, int(math.log2(s.patch))
        self.register_buffer("wavelets", torch.full((2,), 0.5 ** 0.5), persistent=False)
        self.register_buffer("_arange", torch.arange(2), persistent=False)

    def forward(self, x):
        if self.s.video:
            return inverse_haar(x, (2, 3, 4), self.steps)[:, :, self.s.patch - 1:]
        return inverse_haar(x, (3, 2), self.steps)


# ---------------------------------------------------------------- shared layers
class CausalConv3d(nn.Module):
    """Zero padding in space, the first frame repeated in time: frame t never sees a later frame."""
    def __init__(self, cin, cout, kernel, stride=(1, 1, 1), space_pad=None):
        super().__init__()
        self.conv3d = nn.Conv3d(cin, cout, kernel, stride)
        self.time_pad = kernel[0] - 1 + 1 - stride[0]
        self.space_pad = kernel[1] // 2 if space_pad is None else space_pad

    def forward(self, x):
        if self.time_pad:
            x = torch.cat((x[:, :, :1].repeat(1, 1, self.time_pad, 1, 1), x), 2)
        p = self.space_pad
        return self.conv3d(F.pad(x, (p, p, p, p)) if p else x)


class FrameNorm(nn.Module):
    """GroupNorm with one group over each frame on its own (causal in time)."""
    def __init__(self, c): super().__init__(); self.norm = nn.GroupNorm(1, c, eps=1e-6)

    def forward(self, x):
        b, c, t, h, w = x.shape
        y = self.norm(x.transpose(1, 2).reshape(b * t, c, h, w))
        return y.reshape(b, t, c, h, w).transpose(1, 2)


def swish(x): return x * torch.sigmoid(x)


def conv(s, cin, cout, k):
    """A k x k convolution of an image, or its factorised (1,k,k) then (k,1,1) form for a video; k = 1 is one point-wise conv."""
    if not s.video: return nn.Conv2d(cin, cout, k, padding=k // 2)
    if k == 1: return CausalConv3d(cin, cout, (1, 1, 1))
    return nn.Sequential(CausalConv3d(cin, cout, (1, k, k)), CausalConv3d(cout, cout, (k, 1, 1)))


def norm(s, c): return FrameNorm(c) if s.video else nn.GroupNorm(32, c, eps=1e-6)


class ResBlock(nn.Module):
    def __init__(self, s, cin, cout):
        super().__init__()
        self.norm1, self.conv1 = norm(s, cin), conv(s, cin, cout, 3)
        self.norm2, self.conv2 = norm(s, cout), conv(s, cout, cout, 3)
        self.nin_shortcut = conv(s, cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x):
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Single-head attention of width C: over the positions of each frame, or (temporal) over the past of each position."""
    def __init__(self, s, c, temporal=False):
        super().__init__()
        self.temporal, self.norm = temporal, norm(s, c)
        self.q, self.k, self.v, self.proj_out = (conv(s, c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        if self.temporal:
            seq = lambda y: y.permute(0, 3, 4, 2, 1).flatten(1, 2)             # [B, hw, T, C]
        elif x.ndim == 5:
            seq = lambda y: y.permute(0, 2, 3, 4, 1).flatten(2, 3)             # [B, T, hw, C]
        else:
            seq = lambda y: y.flatten(2).transpose(1, 2)                       # [B, hw, C]
        q, k, v = seq(q), seq(k), seq(v)
        w = q @ k.transpose(-1, -2) * (x.shape[1] ** -0.5)
        if self.temporal:
            w = w.masked_fill(torch.ones_like(w).tril() == 0, float("-inf"))
        o = w.softmax(-1) @ v
        if self.temporal:
            b, c, t, hh, ww = x.shape
            o = o.reshape(b, hh, ww, t, c).permute(0, 4, 3, 1, 2)
        elif x.ndim == 5:
            b, c, t, hh, ww = x.shape
            o = o.reshape(b, t, hh, ww, c).permute(0, 4, 1, 2, 3)
        else:
            o = o.transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(o)


def attention(s, c):
    return nn.Sequential(Attention(s, c), Attention(s, c, temporal=True)) if s.video else Attention(s, c)


class ImageDown(nn.Module):
    def __init__(self, c): super().__init__(); self.conv = nn.Conv2d(c, c, 3, stride=2)
    def forward(self, x): return self.conv(F.pad(x, (0, 1, 0, 1)))


class ImageUp(nn.Module):
    def __init__(self, c): super().__init__(); self.conv = nn.Conv2d(c, c, 3, padding=1)
    def forward(self, x): return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def keep(used, make): return make() if used else nn.Identity()


class VideoDown(nn.Module):
    """Strided convolution plus average pooling, in space and/or in time."""
    def __init__(self, c, space, time, unused):
        super().__init__()
        self.space, self.time = space, time
        self.conv1 = keep(space or unused, lambda: CausalConv3d(c, c, (1, 3, 3), (1, 2, 2), space_pad=0))
        self.conv2 = keep(time or unused, lambda: CausalConv3d(c, c, (3, 1, 1), (2, 1, 1)))
        self.conv3 = keep(space or time or unused, lambda: CausalConv3d(c, c, (1, 1, 1)))

    def forward(self, x):
        if not (self.space or self.time): return x
        if self.space:
            x = F.pad(x, (0, 1, 0, 1))
            x = self.conv1(x) + F.avg_pool3d(x, (1, 2, 2))
        if self.time:
            x = torch.cat((x[:, :, :1], x), 2)
            x = self.conv2(x) + F.avg_pool3d(x, (2, 1, 1))
        return self.conv3(x)


class VideoUp(nn.Module):
    def __init__(self, c, space, time, unused):
        super().__init__()
        self.space, self.time = space, time
        self.conv1 = keep(time or unused, lambda: CausalConv3d(c, c, (3, 1, 1)))
        self.conv2 = keep(space or unused, lambda: CausalConv3d(c, c, (1, 3, 3)))
        self.conv3 = keep(space or time or unused, lambda: CausalConv3d(c, c, (1, 1, 1)))

    def forward(self, x):
        if not (self.space or self.time): return x
        if self.time:
            if x.shape[2] > 1: x = x.repeat_interleave(2, 2)[:, :, 1:]   # the first frame is never doubled
            x = self.conv1(x) + x
        if self.space:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = self.conv2(x) + x
        return self.conv3(x)


class Middle(nn.Module):
    def __init__(self, s, c):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResBlock(s, c, c), attention(s, c), ResBlock(s, c, c)

    def forward(self, x): return self.block_2(self.attn_1(self.block_1(x)))


def _halvings(s):
    """How many halvings in space and in time are left to the network after patching."""
    return int(math.log2(s.spatial // s.patch)), int(math.log2(s.temporal // s.patch)) if s.video else 0


class Encoder(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, levels = s, len(s.mult)
        space, time = _halvings(s)
        setattr(self, "patcher3d" if s.video else "patcher", Patch(s))
        self.conv_in = conv(s, 3 * s.patch ** (3 if s.video else 2), s.channels, 3)
        self.down, c = nn.ModuleList(), s.channels
        for i, m in enumerate(s.mult):
            level = nn.Module()
            level.block = nn.ModuleList()
            level.attn = nn.ModuleList()
            for _ in range(s.blocks):
                level.block.append(ResBlock(s, c, s.channels * m)); c = s.channels * m
            if s.video and i != levels - 1: level.downsample = VideoDown(c, i < space, i < time, s.unused_convs)
            if not s.video and i < space: level.downsample = ImageDown(c)
            self.down.append(level)
        self.mid = Middle(s, c)
        self.norm_out, self.conv_out = norm(s, c), conv(s, c, s.z_channels, 3)

    def forward(self, x):
        h = self.conv_in(getattr(self, "patcher3d" if self.s.video else "patcher")(x))
        for level in self.down:
            for block in level.block: h = block(h)
            if hasattr(level, "downsample"): h = level.downsample(h)
        return self.conv_out(swish(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, mult = s, s.decoder_mult or s.mult
        levels = len(mult)
        space, time = _halvings(s)
        c = s.channels * mult[-1]
        self.conv_in, self.mid = conv(s, s.z_channels, c, 3), Middle(s, c)
        ups = []
        for i in reversed(range(levels)):
            level = nn.Module()
            level.block = nn.ModuleList()
            level.attn = nn.ModuleList()
            for _ in range(s.blocks + 1):
                level.block.append(ResBlock(s, c, s.channels * mult[i])); c = s.channels * mult[i]
            if s.video and i != 0:
                r = levels - 1 - i
                t = 0 < r < time + 1
                level.upsample = VideoUp(c, t or (r < space and space > time), t, s.unused_convs)
            if not s.video and i >= levels - space: level.upsample = ImageUp(c)
            ups.insert(0, level)
        self.up = nn.ModuleList(ups)
        self.norm_out = norm(s, c)
        self.conv_out = conv(s, c, 3 * s.patch ** (3 if s.video else 2), 3)
        setattr(self, "unpatcher3d" if s.video else "unpatcher", Unpatch(s))

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block: h = block(h)
            if hasattr(level, "upsample"): h = level.upsample(h)
        return getattr(self, "unpatcher3d" if self.s.video else "unpatcher")(self.conv_out(swish(self.norm_out(h))))


# ---------------------------------------------------------------- finite scalar quantisation
class FSQ(nn.Module):
    """z [B, d, ...] -> (indices int32 [B, ...] in 0 .. prod(levels)-1, codes [B, d, ...] in [-1, 1]). Level 0 is the
    least significant digit of an index. Computed in float32."""
    def __init__(self, levels):
        super().__init__()
        L, basis = torch.tensor(levels, dtype=torch.int32), torch.cumprod(torch.tensor([1, *levels[:-1]]), 0).int()
        self.register_buffer("_levels", L, persistent=False)
        self.register_buffer("_basis", basis, persistent=False)
        i = torch.arange(int(L.prod()))[:, None]
        self.register_buffer("implicit_codebook", ((i // basis) % L - L // 2) / (L // 2), persistent=False)

    def _per_channel(self, v, like): return v.reshape(1, -1, *[1] * (like.ndim - 2))

    def bound(self, z, eps=1e-3):
        half = (self._levels - 1) * (1 + eps) / 2
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        half, offset, shift = (self._per_channel(v, z) for v in (half, offset, shift))
        return (z + shift).tanh() * half - offset

    def forward(self, z):
        width = self._per_channel(self._levels // 2, z)
        y = self.bound(z.float())
        q = y + (y.round() - y).detach()
        digits = q + width
        return (digits * self._per_channel(self._basis, z)).sum(1).round().to(torch.int32), (q / width).to(z.dtype)

    def codes(self, indices, dtype=torch.float32):
        i = indices.unsqueeze(1).to(torch.int64)
        basis, L = self._per_channel(self._basis, i).long(), self._per_channel(self._levels, i).long()
        digits, width = (i // basis) % L, L // 2
        return ((digits - width).float() / width.float()).to(dtype)


class Tokenizer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        inner = len(s.levels) if s.discrete else s.latent_channels
        self.encoder, self.decoder = Encoder(s), Decoder(s)
        self.quant_conv, self.post_quant_conv = conv(s, s.z_channels, inner, 1), conv(s, inner, s.z_channels, 1)
        if s.discrete: self.quantizer = FSQ(s.levels)

    def encode(self, x):
        """-> (indices, codes) when discrete, (latent,) when continuous."""
        z = self.quant_conv(self.encoder(x))
        return self.quantizer(z) if self.s.discrete else (z,)

    def pre_quant(self, x):
        """The continuous vector before FSQ (or the latent itself)."""
        return self.quant_conv(self.encoder(x))

    def decode(self, latent):
        """latent, codes [B, d, ...] or indices [B, ...]."""
        if self.s.discrete and not latent.is_floating_point():
            latent = self.quantizer.codes(latent, self.post_quant_conv_dtype())
        return self.decoder(self.post_quant_conv(latent))

    def post_quant_conv_dtype(self): return next(self.post_quant_conv.parameters()).dtype

    def forward(self, x): return self.decode(self.encode(x)[-1])
