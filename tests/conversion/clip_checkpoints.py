"""Random CLIPs of open_clip's own class, whose tensors have OpenAI's names."""

import open_clip
import torch

VOCABULARY = 400


def model_cfg(quick_gelu: bool = True, vocabulary: int = VOCABULARY) -> dict:
    """Two layers a tower, with heads of 64 as every CLIP of OpenAI's has them."""
    return {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": vocabulary, "width": 64, "heads": 1, "layers": 2},
    }


def plain(cfg: dict, seed: int = 0) -> torch.nn.Module:
    """open_clip's model, with every tensor random: some start at zero or one, where a lost one would not show."""
    torch.manual_seed(seed)
    cfg = dict(cfg)
    cls = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    model = cls(**cfg).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.normal_(std=0.2)
                parameter.add_(float("ln_" in name and name.endswith("weight")))
    return model


def texts(vocabulary: int = VOCABULARY, length: int = 12) -> torch.Tensor:
    """Two texts that end with the highest id, the first padded with zeros."""
    rows = torch.zeros(2, length, dtype=torch.long)
    rows[0, :4] = torch.tensor([vocabulary - 2, 5, 7, vocabulary - 1])
    rows[1] = torch.arange(9, 9 + length)
    rows[1, -1] = vocabulary - 1
    return rows
