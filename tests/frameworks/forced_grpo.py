"""A step of GRPO with ``clients/examples/trl_grpo.py`` and a tiny model that is made to say what is needed.

``python forced_grpo.py FOLDER TASK ANSWER...`` runs in TRL's environment; a model that small calls no tools by itself.
"""

import sys
from pathlib import Path

import trl
import trl_grpo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ["<|im_start|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]


def tiny_model(folder: Path) -> str:
    """A model of one layer that reads bytes, kept in a folder with its tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
        padding_side="left",
    )
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def main(folder: Path, task: str, answers: list[str]) -> None:
    """Train for a step, in which every rollout gives these answers."""
    grpo = trl_grpo.trainer(tiny_model(folder / "model"), [task], folder=str(folder / "out"))
    left = iter(answers)

    def forced(prompt_ids: list[list[int]], *_: object, **__: object) -> tuple[list[list[int]], list[list[float]]]:
        ids = grpo.processing_class(f"{next(left)}<|im_end|>", add_special_tokens=False)["input_ids"]
        return [list(ids) for _ in prompt_ids], [[-1.0] * len(ids) for _ in prompt_ids]

    grpo._generate_single_turn = forced
    grpo.train()
    print("tools:", *sorted(tool.__name__ for tool in grpo.tools))
    for line in grpo.state.log_history:
        if "reward" in line:
            print("reward:", line["reward"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
