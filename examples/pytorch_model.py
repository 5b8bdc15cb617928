# A model of hm11 as a plain PyTorch module: loads model.safetensors, checks its log-probabilities against hm11's,
# and writes a checkpoint that //train:hm11 --init begins with.
#
#   pip install torch safetensors
#   python pytorch_model.py check small_model.safetensors small_model_expected.json
#   tools/bazel run //eval:generate -- --artifact=runs/book/model.safetensors --tokenizer=runs/book/tokenizer.model \
#       --prompt='It was' --log_probs=expected.json       # what hm11 says of a model of your own, to check against
#   python pytorch_model.py copy runs/book/model.safetensors changed.safetensors
#   tools/bazel run //train:hm11 -- --data=corpus --init=changed.safetensors
#
# The names and shapes are those of the reference: attention layers' matrices lie in banks, queries of all layers
# before their outputs, keys before values; a Mamba layer's are its own. Options of the search for better models
# (gates, value residual, loops, parallel layers) are left out, to keep the example short; it says so.
import json
import math
import sys

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file


def read_config(text):
    """Lines of key=value, as hm11 writes them under `config` in the metadata."""
    config = dict(line.split("=", 1) for line in text.split())
    for key, plain in [("gated_attention", "false"), ("value_residual", "false"), ("token_gate", "false"),
                       ("loop_passes", "1"), ("parallel_layers", "0"), ("tied_embeddings", "true")]:
        if config[key] != plain:
            raise SystemExit(f"this example has no {key}={config[key]}")
    return {key: int(value) if value.lstrip("-").isdigit() else value for key, value in config.items()}


def rms_norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class HybridMamba(torch.nn.Module):
    """[batch, time] tokens to [batch, time, vocab] log-probabilities."""

    def __init__(self, config, sequence):
        super().__init__()
        self.config = config
        self.sequence = sequence
        self.layers = config["layers"]
        self.attention_layers = [i for i, kind in enumerate(self.layers) if kind == "A"]

    def load(self, tensors):
        """Parameters under the file's own names; torch allows no dots in them."""
        for name, tensor in tensors.items():
            self.register_parameter(name.replace(".", "/"), torch.nn.Parameter(tensor))
        return self

    def tensors(self):
        return {name.replace("/", "."): value.detach() for name, value in self.named_parameters()}

    def p(self, name):
        return self.get_parameter(name.replace(".", "/"))

    def embed(self, ids):
        c = self.config
        x = F.embedding(ids, self.p("tok_emb.weight"))
        if c["bigram_rows"] > 0:
            x = x + self.p("bigram.scale") * F.linear(
                F.embedding(self.bigram_hash(ids), self.p("bigram.embed.weight")), self.p("bigram.proj.weight"))
        x = rms_norm(x)
        gate = torch.sigmoid(self.p("smear.gate"))
        return (1 - gate) * x + gate * F.pad(x, (0, 0, 1, 0))[:, :-1]

    def bigram_hash(self, ids):
        modulus = self.config["bigram_rows"] - 1
        bits = (36313 * ids[:, 1:].to(torch.int32)) ^ (27191 * ids[:, :-1].to(torch.int32))
        hashed = torch.remainder(bits, modulus).to(torch.int64)  # 32 bits, the remainder not negative
        return F.pad(hashed, (1, 0), value=modulus)

    def mamba(self, i, u):
        c, prefix = self.config, f"blocks.{i}.ssm."
        x, z = F.linear(u, self.p(prefix + "in_proj.weight")).chunk(2, dim=-1)
        weight = self.p(prefix + "conv1d.weight")
        padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
        x = F.silu(F.conv1d(padded, weight, self.p(prefix + "conv1d.bias"), groups=weight.shape[0])).transpose(1, 2)
        low_rank, b, d = F.linear(x, self.p(prefix + "x_proj.weight")).split(
            [c["dt_rank"], c["state"], c["state"]], dim=-1)
        step = F.softplus(F.linear(low_rank, self.p(prefix + "dt_proj.weight"), self.p(prefix + "dt_proj.bias")))
        a = -torch.exp(self.p(prefix + "A_log"))
        state, outputs = torch.zeros(x.shape[0], *a.shape), []
        for t in range(x.shape[1]):
            state = torch.exp(step[:, t, :, None] * a) * state + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
            outputs.append((state * d[:, t, None]).sum(-1))
        y = (torch.stack(outputs, dim=1) + self.p(prefix + "D") * x) * F.silu(z)
        return F.linear(y, self.p(prefix + "out_proj.weight"))

    def rope(self, x):
        c, time, half = self.config, x.shape[1], self.config["rope_dims"] // 2
        base = float(c["rope_base"])
        # The base of training's sequences, however short the text is.
        if self.sequence > c["rope_length"] and half > 1:
            base *= (self.sequence / c["rope_length"]) ** (c["rope_dims"] / (c["rope_dims"] - 2))
        frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency
        cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
        x1, x2, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin, rest], dim=-1)

    def attention(self, i, u, ids):
        c, at, count = self.config, self.attention_layers.index(i), len(self.attention_layers)
        batch, time, dim = u.shape
        heads, kv_heads = c["heads"], c["kv_heads"]
        qo, kv = self.p("qo_bank"), self.p("kv_bank")
        q = F.linear(u, qo[at]).view(batch, time, heads, -1)
        k = F.linear(u, kv[at]).view(batch, time, kv_heads, -1)
        v = F.linear(u, kv[count + at])
        embedded = min(c["value_embedding_layers"], count)
        if at >= count - embedded:
            v = v + self.p(f"ve_layer_scales.{at - count + embedded}") * self.p("ve_shared.scale") * F.linear(
                F.embedding(ids, self.p("ve_shared.embed.weight")), self.p("ve_shared.proj.weight"))
        v = v.view(batch, time, kv_heads, -1)
        q = self.rope(rms_norm(q)) * self.p(f"blocks.{i}.attn.q_gain")[:, None]
        k = self.rope(rms_norm(k))
        v, k = (x.repeat_interleave(heads // kv_heads, dim=2) for x in (v, k))
        y = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
        if i >= len(self.layers) - c["xsa_layers"]:
            n = F.normalize(v, dim=-1, eps=1e-12)
            y = y - (y * n).sum(-1, keepdim=True) * n
        return F.linear(y.reshape(batch, time, dim), qo[count + at])

    def mlp(self, i, u):
        if self.layers[i] == "A":
            at = self.attention_layers.index(i)
            up, down = self.p("mlp_up_bank")[at], self.p("mlp_down_bank")[at]
        else:
            up, down = self.p(f"blocks.{i}.fc.weight"), self.p(f"blocks.{i}.proj.weight")
        return F.linear(F.leaky_relu(F.linear(u, up), 0.5).square(), down)

    def forward(self, ids):
        c, count = self.config, len(self.layers)
        x = x0 = self.embed(ids)
        encoder, outputs = count // 2, []
        for i in range(count):
            skip = i - encoder
            if 0 <= skip < count // 2:
                x = x + self.p("skip_weights")[skip] * outputs[encoder - 1 - skip]
            mix = self.p(f"blocks.{i}.resid_mix")
            x = mix[0] * x + mix[1] * x0
            scale = 1 / math.sqrt(i + 1) if c["layer_norm_scale"] == "true" else 1.0
            branch = self.attention(i, scale * rms_norm(x), ids) if self.layers[i] == "A" else self.mamba(
                i, scale * rms_norm(x))
            x = x + self.p(f"blocks.{i}.{'attn' if self.layers[i] == 'A' else 'ssm'}_scale") * branch
            x = x + self.p(f"blocks.{i}.mlp_scale") * self.mlp(i, scale * rms_norm(x))
            outputs.append(x)
        cap = float(c["soft_cap"])
        logits = F.linear(rms_norm(x), self.p("tok_emb.weight"))
        return F.log_softmax(cap * torch.tanh(logits / cap), dim=-1)


def load(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        return HybridMamba(read_config(metadata["config"]), int(metadata["sequence"])).load(
            {name: file.get_tensor(name) for name in file.keys()}), metadata


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("check", "copy"):
        raise SystemExit("pytorch_model.py check MODEL EXPECTED | copy MODEL CHANGED")
    model, metadata = load(sys.argv[2])
    if sys.argv[1] == "check":
        expected = json.load(open(sys.argv[3]))
        with torch.no_grad():
            got = model(torch.tensor([expected["tokens"]]))[0]
        difference = (got - torch.tensor(expected["log_probabilities"])).abs().max().item()
        print(f"{len(expected['tokens'])} tokens: log-probabilities differ by at most {difference:.2e}")
        raise SystemExit(difference > 1e-4)
    with torch.no_grad():
        model.p("tok_emb.weight").mul_(1.0)  # Here a program of yours would train the model.
    save_file({name: value.contiguous() for name, value in model.tensors().items()}, sys.argv[3], metadata)


if __name__ == "__main__":
    main()
