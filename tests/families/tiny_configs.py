"""A tiny config of any causal family: the config class's own defaults, shrunk by the names of their numbers.

Lists with one entry per layer come from the class itself, which makes them anew for the smaller depth. What names do
not tell stands in a table by hand: dimensions that belong together, kinds of layers that a family can mix but does
not mix by default, and masks that are narrower than the prompts.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

DEPTH = 6
HIDDEN = 32
HEADS = 4
VOCABULARY = 96
LENGTH = 128
WINDOW = 4  # of sliding attention, chunks and blocks: shorter than the prompts

_SIZES: tuple[tuple[int, str], ...] = (
    (
        HIDDEN,
        "hidden_size d_model n_embd emb_dim embedding_dim embedding_size lru_width attention_hidden_size",
    ),
    (HIDDEN, "word_embed_proj_dim backbone_hidden_size hidden_size_global"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size"),
    (VOCABULARY, "pronunciation_vocab_size shape_vocab_size"),
    (LENGTH, "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length"),
    (LENGTH, "max_target_positions max_source_positions"),
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads attention_heads swa_num_attention_heads linear_num_heads",
    ),
    (HEADS, "decoder_attention_heads encoder_attention_heads num_encoder_attention_heads n_mamba_heads"),
    (HEADS, "num_decoder_attention_heads swa_num_key_value_heads linear_num_value_heads"),
    (
        2,
        "num_key_value_heads num_global_key_value_heads num_kv_heads linear_num_key_heads index_n_heads n_groups",
    ),
    (4, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_k moe_topk"),
    (1, "n_group num_expert_group topk_group"),
    (2, "encoder_layers num_encoder_layers"),
    (
        8,
        "head_dim swa_head_dim kv_channels attention_head_size d_head dim_head attention_head_dim mamba_d_head",
    ),
    (8, "mamba_head_dim mamba_headdim linear_head_dim v_head_dim"),
    (
        8,
        "qk_nope_head_dim index_head_dim mamba_d_state state_size ssm_state_size mamba_n_heads mamba_num_heads",
    ),
    (8, "chunk_size mamba_chunk_size query_pre_attn_scalar adapter_rank laurel_rank"),
    (4, "rotary_dim qk_rope_head_dim mamba_dt_rank time_step_rank"),
    (16, "global_head_dim q_lora_rank kv_lora_rank linear_key_head_dim linear_value_head_dim"),
    (24, "moe_intermediate_size expert_ffn_hidden_size shared_experts_intermediate_size"),
    (24, "moe_shared_expert_intermediate_size"),
    (48, "intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim ffn_hidden_size d_inner dim_ff dff"),
    (48, "feed_forward_size shared_intermediate_size intermediate_size_mlp dense_intermediate_size mlp_dim"),
    (48, "shared_expert_intermediate_size"),
    (WINDOW, "sliding_window sliding_window_size attention_window_size window_size local_attention"),
    (WINDOW, "attention_chunk_size keep_window_size index_topk"),
    (3, "max_window_layers"),
)
_BY_NAME = {name: size for size, names in _SIZES for name in names.split()}
_DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "num_layers_per_stack"),
    *("decoder_layers", "num_decoder_layers"),
)
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_LATENT = ("head_dim", "qk_head_dim")  # told by the other widths where attention goes through a latent

_MIXED = ["sliding_attention", "full_attention"] * 3
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}

# By the config's own model_type.
_BY_HAND: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 3},
    "bamba": {"attn_layer_indices": [1, 4]},
    "cohere_compass_text": {
        "layer_types": _MIXED,
        "rope_parameters": {"full_attention": None, "sliding_attention": _ROPE},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {
        "o_lora_rank": 8,
        "o_groups": 2,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    },
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "dots3_note": {"vision_config": {"adapter_out_dim": HIDDEN}, "audio_config": {"adapter_out_dim": HIDDEN}},
    "dots3_note_text": {
        "num_key_value_heads": HEADS,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "embedding_multiplier": 2.0,
        "lm_head_multiplier": 0.5,
        "key_multiplier": 0.5,
        "mlp_multipliers": [0.5, 2.0],
        "ssm_multipliers": [0.5, 1.0, 2.0, 1.5, 0.7],
    },
    "gemma3n_text": {
        "layer_types": _MIXED,
        "intermediate_size": 48,
        "activation_sparsity_pattern": [0.5, 0.5, 0.5, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_text": {"layer_types": _MIXED, "num_global_key_value_heads": 2, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granite": _MULTIPLIERS,
    "granitemoe": _MULTIPLIERS,
    "granitemoehybrid": {**_MULTIPLIERS, "layer_types": ["linear_attention", "full_attention"] * 3},
    "granitemoeshared": _MULTIPLIERS,
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "inkling2_text": {"n_layers_per_attn_res_block": 2, "rel_extent": 16},
    "inkling_text": {"rel_extent": 16},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "laguna": {"layer_types": _MIXED},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 3, "block_multiple_of": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 3},
    "llama4_text": {"interleave_moe_layer_step": 2, "floor_scale": 4},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "mellum": {"layer_types": _MIXED},
    "minimax": {"block_size": WINDOW},
    "minimax_m3_vl_text": {
        "mlp_layer_types": ["dense", *["sparse"] * 5],
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 3,
        "index_block_size": WINDOW,
        "index_topk_blocks": 2,
    },
    "ministral": {"head_dim": 8, "layer_types": _MIXED},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "moe"]
    },
    "qwen3_moe": {"mlp_only_layers": [1]},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 2,
        "ple_layer_ids": [],
        "ngram_vocab_size_base": 64,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"] * 3,
        "axial_pos_embds": False,
        "local_attn_chunk_length": WINDOW,
        "lsh_attn_chunk_length": WINDOW,
        "num_buckets": 4,
        "hash_seed": 1,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 48},
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16},
    "rwkv": {"rescale_every": 2},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 16,
    },
    "zaya": {"router_hidden_size": 16},
}


def tiny_config(family: str, **changes: Any) -> PretrainedConfig:
    """Make a small config of a family, which is known by its `model_type`; `changes` go before all else."""
    known = CONFIG_MAPPING[family]
    return known(**{**_shrunk(known(), DEPTH), **changes})


def _shrunk(config: PretrainedConfig, depth: int) -> dict[str, Any]:
    """Return the arguments that make a small config of the same class."""
    latent = "kv_lora_rank" in vars(config)
    by_hand = _BY_HAND.get(config.model_type, {})
    small: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            small[name] = _shrunk(value, depth if name in ("text_config", "decoder") else 2)
        elif name in _TOKENS and value is not None:
            small[name] = _TOKENS.index(name)
        elif name in ("use_sliding_window", "is_decoder"):
            small[name] = True
        elif name == "sliding_window" or (name == "num_experts_per_tok" and value is None):
            small[name] = _BY_NAME[name]
        elif type(value) is not int or value < 2 or (latent and name in _LATENT):
            continue
        elif name in _DEPTHS:
            small[name] = depth
        elif name in _BY_NAME:
            small[name] = HEADS if latent and name == "num_key_value_heads" else _BY_NAME[name]
    return {**small, **by_hand}
