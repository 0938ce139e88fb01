"""What is checked of one family: training against a plain loop, the export, the adapter, the exam, the end of a turn.

The trials run in this process on one rank, through the objects that a slot's rank uses. The other side of every
comparison is plain transformers and peft: one row at a time, no batching, no sharding.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.families.material import make_model, prepare_trial, rows, write_data
from benchmarks.families.recipes import Recipe

from sweepft.data import SampleOrder, TokenSet
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig
from sweepft.training.inference import plain_model
from sweepft.training.lr_schedules import lr_at
from sweepft.training.trainer import TrialRunner

STEPS: Final = 4
BATCH: Final = 8
TOKENS: Final = 160
"""Of a micro-batch where they are given in tokens: two to four rows."""
MEMORISE_STEPS: Final = 150
"""At most."""
KNOWN: Final = 0.05
"""Loss in nats per token at which an answer counts as known by heart."""
LOSS_TOLERANCE: Final = 1e-5
LOGIT_TOLERANCE: Final = 1e-4
_EPS: Final = 1e-6
"""Of AdamW: with 1e-8, rounding errors of gradients that should vanish become steps of the learning rate."""


@dataclass
class Outcome:
    """The results of one family; differences are the largest ones, in nats per token or in logits.

    Attributes:
        family: Its name.
        mechanism: What sets it apart.
        layout: What micro-batches in tokens are for it: ``packed`` or ``grouped``.
        full: Largest difference of a loss from the plain loop's, full fine-tuning, by micro-batch.
        lora: The same with adapters.
        export: Largest difference of a logit of the exported folder, ``full`` and ``lora``.
        adapter: Largest difference of a logit of base model and adapter in plain peft.
        exam: Largest difference of the validation loss of kept weights in living ranks, ``full`` and ``lora``.
        end_of_turn: Whether the exported folder alone ends a memorised answer, ``full`` and ``lora``.
        failures: What did not hold, one line each.
        seconds: Of all checks.
    """

    family: str
    mechanism: str
    layout: str = ""
    full: dict[str, float] = field(default_factory=dict)
    lora: dict[str, float] = field(default_factory=dict)
    export: dict[str, float] = field(default_factory=dict)
    adapter: float | None = None
    exam: dict[str, float] = field(default_factory=dict)
    end_of_turn: dict[str, bool] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @contextlib.contextmanager
    def collecting(self, what: str) -> Iterator[None]:
        """Note an exception as a failure and go on with the next check."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())
            self.failures.append(f"{what}: {type(error).__name__}: {text[:300]}")

    def expect(self, what: str, difference: float, tolerance: float) -> float:
        """Note a difference that is too large; returns it."""
        if not difference <= tolerance:
            self.failures.append(f"{what}: differs by {difference:.2g}, allowed {tolerance:g}")
        return difference


def check(one: Recipe, folder: Path, device: torch.device) -> Outcome:
    """All checks of one family; ``torch.distributed`` must be initialised with one rank."""
    begin = time.perf_counter()
    outcome = Outcome(one.name, one.mechanism)
    with outcome.collecting("preparation"):
        _Family(one, folder, device, outcome).run()
    outcome.seconds = round(time.perf_counter() - begin, 1)
    return outcome


class _Family:
    """The model, data and configurations of one family."""

    def __init__(self, one: Recipe, folder: Path, device: torch.device, outcome: Outcome) -> None:
        self.one, self.device, self.outcome, self.folder = one, device, outcome, folder
        self.model = make_model(one, folder / "model")
        train, validation = write_data(folder)
        self.spec, self.prepared, self.engine = prepare_trial(
            folder / "sweep", self.model, train, validation, samples=STEPS * BATCH, batch_size=BATCH
        )
        memorised = train.with_name("memorised.jsonl")
        memorised.write_text("".join(train.read_text().splitlines(keepends=True)[:2]))
        _, self.memorised, self.memory_engine = prepare_trial(
            folder / "memorise", self.model, memorised, validation, samples=2 * MEMORISE_STEPS, batch_size=2
        )

    def run(self) -> None:
        adapters = {"rank": 4, "alpha": 8.0, "target_modules": self.one.targets}
        for kind, lora in (("full", None), ("lora", adapters)):
            settings = self._train_config(lora, optimizer={"eps": _EPS})
            with self.outcome.collecting(f"{kind}, plain loop"):
                losses = self._plain(settings)
                self._train(kind, settings, losses)
            with self.outcome.collecting(f"{kind}, end of turn"):
                self.outcome.end_of_turn[kind] = self._memorise(kind, lora)

    def _train_config(self, lora: dict[str, Any] | None, **changes: Any) -> TrainConfig:
        fields = self.spec.train_config({}, STEPS * BATCH).model_dump() | {"lora": lora, "seed": 0} | changes
        return TrainConfig.model_validate(fields)

    def _runner(self, config: EngineConfig, *, packed: bool, size: int) -> TrialRunner:
        return TrialRunner(replace(config, packed=packed, micro_batch=size), self.device)

    # Training

    def _plain(self, settings: TrainConfig) -> dict[str, list[float]]:
        """Losses of a loop over single rows: of the steps, and of the validation set before and after."""
        model = _plain_model(self.engine, settings)
        train, held = TokenSet(self.engine.train_cache), TokenSet(self.engine.validation[0].cache)
        order = SampleOrder(len(train), settings.seed, train.digest)
        trained = [p for p in model.parameters() if p.requires_grad]
        constants = settings.optimizer
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": constants.weight_decay},
             {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}],
            lr=1.0, betas=constants.betas, eps=constants.eps,
        )  # fmt: skip
        found: dict[str, list[float]] = {"validation": [_mean_loss(model, held)], "steps": []}
        for step in range(STEPS):
            chosen = [train.row(int(i)) for i in order.indices(step * BATCH, (step + 1) * BATCH)]
            tokens = sum(int(mask[1:].sum()) for _, mask in chosen)
            total = 0.0
            for ids, mask in chosen:
                loss = _row_loss(model, ids, mask) / tokens
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(trained, settings.gradient_clipping)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, settings)
            optimizer.step()
            optimizer.zero_grad()
            found["steps"].append(total)
        found["validation"].append(_mean_loss(model, held))
        return found

    def _train(self, kind: str, settings: TrainConfig, plain: dict[str, list[float]]) -> None:
        with self.outcome.collecting(f"{kind}, micro-batch tokens"):
            runner = self._runner(self.engine, packed=True, size=TOKENS)
            self._compare(kind, "tokens", runner, settings, plain)
            self.outcome.layout = runner.zero.layout.kind
            runner.close()
        with self.outcome.collecting(f"{kind}, micro-batch 1"):
            runner = self._runner(self.engine, packed=False, size=1)
            self._compare(kind, "1", runner, settings, plain)
        with self.outcome.collecting(f"{kind}, micro-batch 4"):
            runner.set_micro_batch(4)
            after = self._compare(kind, "4", runner, settings, plain)
            self._read_back(kind, runner, settings, after)
            runner.close()

    def _compare(
        self, kind: str, micro: str, runner: TrialRunner, settings: TrainConfig, plain: dict[str, list[float]]
    ) -> float:
        """Train a trial and compare its losses with the plain loop's; returns its last validation loss."""
        runner.start(settings)
        before = runner.evaluate()["objective"]
        steps = runner.run(STEPS * BATCH)["history"]["loss"]
        after = float(runner.evaluate()["objective"])
        pairs = (steps, plain["steps"]), ([before, after], plain["validation"])
        largest = max(float(np.abs(np.subtract(*pair)).max()) for pair in pairs)
        differences: dict[str, float] = getattr(self.outcome, kind)
        differences[micro] = self.outcome.expect(f"{kind}, micro-batch {micro}", largest, LOSS_TOLERANCE)
        return after

    # Exports

    def _read_back(self, kind: str, runner: TrialRunner, settings: TrainConfig, loss: float) -> None:
        """Export the trained weights and use them elsewhere."""
        weights = self.folder / f"weights-{kind}"
        ids = self._row()
        with plain_model(runner.zero) as model:
            expected = model(input_ids=ids, use_cache=False).logits
        with self.outcome.collecting(f"{kind}, export"):
            runner.export(str(weights), self.prepared.tokenizer)
            exported = self._reload(f"{kind}, export", weights)
            what = f"{kind}, logits of the export"
            self.outcome.export[kind] = self.outcome.expect(
                what, _difference(exported, ids, expected), LOGIT_TOLERANCE
            )
        if kind == "lora":
            with self.outcome.collecting("adapter in plain peft"):
                from peft import PeftModel

                base = _load(self.model)
                adapted = PeftModel.from_pretrained(base, weights / "adapter").eval()
                difference = _difference(adapted, ids, expected)
                self.outcome.adapter = self.outcome.expect(
                    "adapter in plain peft", difference, LOGIT_TOLERANCE
                )
        with self.outcome.collecting(f"{kind}, exam"):
            runner.start(settings)
            runner.load_weights(str(weights))
            scored = runner.set_loss(self.engine.validation[0].cache)["loss"]
            self.outcome.exam[kind] = self.outcome.expect(f"{kind}, exam", abs(scored - loss), LOSS_TOLERANCE)

    def _row(self) -> torch.Tensor:
        held = TokenSet(self.engine.validation[0].cache)
        longest = int(np.argmax(held.lengths))
        return torch.from_numpy(held.row(longest)[0].astype(np.int64))[None]

    def _reload(self, what: str, weights: Path) -> Any:
        from transformers import AutoModelForCausalLM

        model, loaded = AutoModelForCausalLM.from_pretrained(weights, output_loading_info=True)
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if loaded[name]:
                some = ", ".join(sorted(map(str, loaded[name]))[:3])
                self.outcome.failures.append(f"{what}: {len(loaded[name])} {name.replace('_', ' ')}: {some}")
        return model.eval()

    # End of turn

    def _memorise(self, kind: str, lora: dict[str, Any] | None) -> bool:
        """Train until two answers are known by heart, export, and let the folder alone answer."""
        adapters = None if lora is None else lora | {"rank": 16, "alpha": 32.0}
        runner = self._runner(self.memory_engine, packed=True, size=TOKENS)
        for rate in (5e-3, 1e-2, 2e-3):  # families differ in the rates at which adapters learn
            settings = self._train_config(
                adapters, batch_size=2, budget_samples=2 * MEMORISE_STEPS, learning_rate=rate
            )
            runner.start(settings)
            samples, last = 0, float("inf")
            while last > KNOWN / 5 and samples < 2 * MEMORISE_STEPS:
                samples += 20
                last = runner.run(samples)["history"]["loss"][-1]
            if last <= KNOWN:
                break
        else:
            self.outcome.failures.append(f"{kind}, end of turn: not memorised, loss {last:.2g}")
        weights = self.folder / f"memorised-{kind}"
        runner.export(str(weights), self.memorised.tokenizer)
        runner.close()
        wrong = _answers_wrong(weights, [row["messages"] for row in rows()[:2]], self.memorised.end_ids)
        self.outcome.failures += [f"{kind}, end of turn: {line}" for line in wrong]
        return not wrong and last <= KNOWN


def _plain_model(config: EngineConfig, settings: TrainConfig) -> Any:
    """The base model in plain transformers, with a plain peft adapter where the trial has one."""
    model = _load(Path(config.model_path))
    if config.vocab_size > model.get_input_embeddings().num_embeddings:
        torch.manual_seed(0)
        model.resize_token_embeddings(config.vocab_size)
    if settings.lora is not None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        lora, named = settings.lora, settings.lora.target_modules
        targets = named if isinstance(named, str) else list(named)
        adapters = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, adapters)
    return model.train()


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _row_loss(model: Any, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    wanted = torch.from_numpy(mask[1:].astype(bool))
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
    return F.cross_entropy(logits[wanted], tokens[0, 1:][wanted], reduction="sum")


@torch.no_grad()
def _mean_loss(model: Any, held: TokenSet) -> float:
    model.eval()
    chosen = [held.row(i) for i in range(len(held))]
    total = sum(_row_loss(model, *row).item() for row in chosen)
    model.train()
    return total / sum(int(mask[1:].sum()) for _, mask in chosen)


@torch.no_grad()
def _difference(model: Callable[..., Any], ids: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of a logit, over the vocabulary that both have: a pad token may have been added."""
    found = model(input_ids=ids, use_cache=False).logits
    both = min(found.shape[-1], expected.shape[-1])
    return float((found[..., :both] - expected[..., :both]).abs().max())


@torch.no_grad()
def _answers_wrong(weights: Path, chats: list[list[dict[str, str]]], end_ids: tuple[int, ...]) -> list[str]:
    """How the folder's own answers, alone and in a batch of eight, differ from the memorised ones."""
    from transformers import AutoTokenizer

    model, tokenizer = _load(weights).eval(), AutoTokenizer.from_pretrained(weights, padding_side="left")
    wrong = []
    for size in (1, 8):
        asked = [chats[i % len(chats)] for i in range(size)]
        prompts = [
            tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
            for chat in asked
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        batch.pop("token_type_ids", None)
        out = model.generate(**batch, do_sample=False, max_new_tokens=40)[:, batch["input_ids"].shape[1] :]
        for chat, ids in zip(asked, out.tolist(), strict=True):
            end = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
            text = tokenizer.decode(ids[:end]).strip()
            filler = {tokenizer.pad_token_id, *end_ids} if size > 1 else set()
            behind = set(ids[end + 1 :]) - filler
            if text != chat[-1]["content"] or end == len(ids) or behind:
                said = tokenizer.decode(ids)
                wrong.append(f"batch of {size}: {chat[-1]['content']!r} expected, got {said[:80]!r}")
                break
    return wrong
