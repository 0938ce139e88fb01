"""Score a model in memory on a task. Runs on every rank of a slot.

Where each rank holds all weights, the ranks share the items. Where the weights are sharded (ZeRO-3, and they do not fit
a rank as a whole), every rank runs all items, because all ranks must take part in the gathers of each forward pass.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
import torch.distributed as dist
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM, normalize_gen_kwargs

from sweepft.errors import EvaluateError
from sweepft.evaluation.batch_size import fitting_batch
from sweepft.evaluation.generate import pad_from_end
from sweepft.evaluation.task_loading import FEWSHOT_SEED, hub_offline, load_tasks, metric_names
from sweepft.evaluation.tasks import EvalTask

_KEPT: Final[dict[EvalTask, dict[str, Any]]] = {}
"""Loaded tasks that this process scores again and again."""


def score(
    model: Any,
    tokenizer: str,
    task: EvalTask,
    *,
    sharded: bool,
    length_class: Callable[[int], int] | None = None,
    keep: bool = False,
    bootstrap: bool = True,
) -> dict[str, Any]:
    """Scores of a model on one task or group.

    Args:
        model: A transformers causal language model in evaluation mode; its generation config has the tokens that end
            an answer.
        tokenizer: Folder of its tokenizer.
        task: The task and its settings.
        sharded: Whether each rank holds only a part of the weights.
        length_class: Class of a length in tokens; items of different classes never share a batch. None: all may.
        keep: Keep the loaded task in this process, for a task that is scored many times.
        bootstrap: Estimate errors of metrics that are no means over items by resampling, which can take minutes.
    Returns:
        On rank 0 ``metrics`` (name -> value, stderr, higher_is_better), ``parts`` (the same by task of a group),
        ``items`` (documents scored), ``version``, ``num_fewshot`` and ``samples`` (one record an item and filter);
        nothing on other ranks.
    Raises:
        EvaluateError: If the task cannot be loaded.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded = _KEPT.get(task) or load_on_nodes(task)
    if keep:
        _KEPT[task] = loaded
    for one in loaded["tasks"].values():  # each evaluation draws the same few-shot examples
        one.set_fewshot_seed(seed=FEWSHOT_SEED)
    fewest = min(len(one.eval_docs) for one in loaded["tasks"].values())
    world = dist.get_world_size()
    shares = not sharded and min(fewest, task.limit or fewest) >= world
    lm = _InMemoryModel(
        model,
        tokenizer,
        task.batch_size,
        ranks=world if shares else 1,
        synced=sharded and world > 1,
        chat_template=task.chat_template,
        length_class=length_class,
    )
    with _lengths_of_tasks(model):
        results = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=task.limit,
            apply_chat_template=lm.chats,
            fewshot_as_multiturn=lm.chats,
            bootstrap_iters=100_000 if bootstrap else 0,
        )
    return {} if results is None or dist.get_rank() != 0 else _result(task.name, loaded, results)


def load_on_nodes(task: EvalTask) -> dict[str, Any]:
    """`load_tasks` on every rank: one rank of each node asks the hub, then the others read that node's caches.

    All ranks at once would ask for each data set, and the hub refuses clients that ask too often. Ranks whose host has
    the same name share a node.

    Raises:
        EvaluateError: On every rank, if it cannot be loaded on one.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if world == 1:
        return load_tasks(task)
    hosts: list[Any] = [None] * world
    dist.all_gather_object(hosts, socket.gethostname())
    loaded: dict[str, Any] | None = None
    problem: Exception | None = None
    if hosts.index(hosts[rank]) == rank:
        try:
            loaded = load_tasks(task)
        except EvaluateError as error:
            problem = error
        except Exception as error:  # the others wait
            problem = RuntimeError(f"{task.name}: {type(error).__name__}: {error}")
    problems: list[Any] = [None] * world
    dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise found
    if loaded is None:
        try:
            with hub_offline():
                loaded = load_tasks(task)
        except EvaluateError:  # data that no cache holds
            loaded = load_tasks(task)
    return loaded


@contextlib.contextmanager
def _lengths_of_tasks(model: Any) -> Iterator[None]:
    """Without the base model's own limits, which would take precedence over a task's ``max_gen_toks``."""
    generation = model.generation_config
    limits = {key: getattr(generation, key) for key in ("max_new_tokens", "max_time")}
    for key in limits:
        setattr(generation, key, None)
    try:
        yield
    finally:
        for key, value in limits.items():
            setattr(generation, key, value)


class _InMemoryModel(HFLM):  # type: ignore[misc]  # the harness has no types
    """A model in memory, as the harness expects it, on ranks that have already joined a process group.

    Args:
        model: The model.
        tokenizer: Folder of its tokenizer.
        batch_size: Items per forward pass; None for as many as fit.
        ranks: Number of ranks that share the items.
        synced: Whether every rank generates until the slowest one has finished.
        chat_template: Whether requests are written with the chat template, if the tokenizer has one.
        length_class: As of `score`.

    Attributes:
        chats: Whether they are.
    """

    batch_size_per_gpu: int

    def __init__(
        self,
        model: Any,
        tokenizer: str,
        batch_size: int | None,
        *,
        ranks: int,
        synced: bool,
        chat_template: bool,
        length_class: Callable[[int], int] | None = None,
    ) -> None:
        from transformers import AutoTokenizer

        own = AutoTokenizer.from_pretrained(tokenizer)  # the harness changes its padding side
        self.chats = chat_template and own.chat_template is not None
        # As in training: a chat has the special tokens that its template writes, other text those of the tokenizer.
        bos = False if self.chats else None
        model.tie_weights = lambda *_, **__: (
            None
        )  # the weights are tied; with trained token rows it would fail
        try:
            super().__init__(pretrained=model, tokenizer=own, batch_size=batch_size or 1, add_bos_token=bos)
        finally:
            del model.tie_weights
        self._wanted_batch = batch_size
        self._synced = synced
        self._length_class = length_class
        if ranks > 1:
            self.accelerator = _Ranks()
            self._rank, self._world_size = dist.get_rank(), ranks

    def loglikelihood_rolling(self, requests: Any, *args: Any, **kwargs: Any) -> list[float]:
        """Log-likelihoods of whole texts, in windows of the model's length."""
        with self._batches_for(self.max_length, generated=False):
            return list(super().loglikelihood_rolling(requests, *args, **kwargs))

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Log-likelihoods, batched within each length class."""
        ask = super()._loglikelihood_tokens
        room = self.max_length + 1
        lengths = [min(room, len(context) + len(end)) - 1 for _, context, end in requests]

        def all_of(some: Any) -> list[Any]:
            return list(ask(some, *args, **kwargs))

        if kwargs.get("override_bs") is not None:  # a batch of whole texts
            return self._by_class(requests, lengths, all_of)
        with self._batches_for(max(lengths, default=1), generated=False):
            return self._by_class(requests, lengths, all_of)

    def generate_until(self, requests: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Answers, batched within each length class; an item that may grow into another class runs alone."""
        ask = super().generate_until
        ranges = [self._lengths(*request.args) for request in requests]
        groups = [self._one_class(begin, end) for begin, end in ranges]
        with self._batches_for(max((end for _, end in ranges), default=1), generated=True) as batch_size:

            def answer(some: list[Any], group: int | None) -> list[Any]:
                self.batch_size_per_gpu = 1 if group is None else batch_size
                return list(ask(some, *args, **kwargs))

            return _in_groups(requests, groups, answer)

    def _lengths(self, context: str, settings: Any) -> tuple[int, int]:
        """Tokens of a prompt, and with its longest answer."""
        new = normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"]
        begin = min(len(self.tok_encode(context)), self.max_length - new)
        return begin, begin + new

    def _one_class(self, begin: int, end: int) -> int | None:
        """The length class of both lengths; None where they differ."""
        if self._length_class is None:
            return 0
        here = self._length_class(begin)
        return here if here == self._length_class(end) else None

    def _by_class(self, requests: Any, lengths: list[int], run: Callable[[Any], list[Any]]) -> list[Any]:
        """Results in the order of the requests, which run class by class."""
        if self._length_class is None:
            return run(requests)
        return _in_groups(requests, [self._length_class(n) for n in lengths], lambda some, _: run(some))

    @contextlib.contextmanager
    def _batches_for(self, longest: int, *, generated: bool) -> Iterator[int]:
        """Run in batches of the wanted size, or of as many sequences of ``longest`` tokens as fit; yields the size."""
        before = self.batch_size_per_gpu
        self.batch_size_per_gpu = self._wanted_batch or fitting_batch(
            self.model, longest, generated=generated
        )
        try:
            yield self.batch_size_per_gpu
        finally:
            self.batch_size_per_gpu = before

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **arguments: Any
    ) -> torch.Tensor:
        if self._synced:
            arguments["synced_gpus"] = True
        generated: torch.Tensor = super()._model_generate(context, max_length, stop, **arguments)
        pad_from_end(generated[:, context.shape[1] :], self.model, self.tokenizer.pad_token_id)
        return generated


def _in_groups(items: Any, groups: list[Any], run: Callable[[list[Any], Any], Any]) -> list[Any]:
    """Results of ``run(items of a group, group)`` in the order of the items."""
    found: dict[int, Any] = {}
    for group in dict.fromkeys(groups):
        places = [i for i, one in enumerate(groups) if one == group]
        found |= zip(places, run([items[i] for i in places], group), strict=True)
    return [found[i] for i in range(len(groups))]


class _Ranks:
    """The part of ``accelerate.Accelerator`` that the harness uses, on the existing process group."""

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.zeros_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.stack(parts) if tensor.dim() == 0 else torch.cat(parts)

    def wait_for_everyone(self) -> None:
        dist.barrier()

    def unwrap_model(self, model: Any) -> Any:
        return model


def _result(name: str, loaded: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    rows = {**results["results"], **results.get("groups", {})}
    tasks = list(loaded["tasks"])
    better = results.get("higher_is_better", {})
    parts = {task: _metrics(rows[task], better.get(task, {})) for task in tasks}
    counts = [results["n-samples"][task]["effective"] for task in tasks]
    metrics = _metrics(rows.get(name, {}), better.get(name, {}))
    if name not in parts and not metrics:  # a group or tag that does not aggregate: the mean of its tasks
        metrics = _mean(list(parts.values()))
    return {
        "metrics": metrics,
        "parts": {} if tasks == [name] else parts,
        "items": sum(counts),
        "version": _text(results["versions"].get(name) or results["versions"].get(tasks[0])),
        "num_fewshot": results["n-shot"].get(tasks[0]),
        "samples": [_sample(task, s) for task in tasks for s in _in_order(results["samples"][task])],
    }


def _in_order(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By filter and document, whichever rank has run which."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    return sorted(samples, key=lambda sample: (filters.index(sample["filter"]), sample["doc_id"]))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _metrics(row: Mapping[str, Any], better: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for key, name in metric_names(row).items():
        metric, _, rest = key.partition(",")
        value, stderr = row[key], row.get(f"{metric}_stderr,{rest}")
        if isinstance(value, int | float):
            found[name] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                "higher_is_better": bool(better.get(metric, True)),
            }
    return found


def _mean(parts: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Unweighted mean over tasks of the metrics that all of them have; their errors are treated as independent."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    means = {}
    for name in shared:
        values, errors = [p[name]["value"] for p in parts], [p[name]["stderr"] for p in parts]
        known = [e for e in errors if e is not None]
        stderr = sum(e * e for e in known) ** 0.5 / len(parts) if len(known) == len(parts) else None
        means[name] = {**parts[0][name], "value": sum(values) / len(parts), "stderr": stderr}
    return means


def _sample(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt, response and target of one item. The document is in the task's data, under its number."""
    kept = {key: sample[key] for key in ("doc_id", "filter", "target", "doc_hash", "prompt_hash")}
    return {"task": task, **kept, "response": sample["filtered_resps"], "raw": sample["resps"]} | {
        metric: sample[metric] for metric in sample["metrics"]
    }
