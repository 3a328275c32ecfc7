"""The demo's figures, files, page and conclusion, drawn from whatever was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.demo.measure import Results
from fedpriv.atomic import write_csv, write_json
from fedpriv.figures.curves import training_curves
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.figures.tradeoff import Point, privacy_utility
from fedpriv.metrics.score import PSNR_CAP
from fedpriv.report.page import Figure, Report, Section, Table

#: Above this epsilon a guarantee is called not meaningful: e^10 lets any output be 22,000 times as likely.
MEANINGFUL = 10.0

#: Below this mean SSIM a reconstruction is said to hide what the image shows.
HIDDEN_SSIM = 0.3


def write_data(results: Results, out: Path, origin: dict[str, Any]) -> None:
    """The numbers: `summary.csv`, `images.csv`, `rounds.csv` and `demo.json`."""
    images = [
        row
        for label, e in results.exposed.items()
        for i, s in enumerate(e.scores)
        for row in s.rows(arm=label, trial=i)
    ]
    rounds = [
        {"arm": label, **{k: v for k, v in r.row().items() if k not in ("metrics", "dropped")}}
        for label, t in results.trained.items()
        for r in t.history.records
    ]
    for name, rows in (("summary", results.rows()), ("images", images), ("rounds", rounds)):
        if rows:
            write_csv(out / f"{name}.csv", rows)
    write_json(
        out / "demo.json",
        {"interrupted": results.interrupted, "summary": results.rows(), "images": images, "provenance": origin},
    )


def write_page(results: Results, out: Path, origin: dict[str, Any]) -> Path:
    """Figures as PNG and PDF, and `report.html`."""
    sections = [_conclusion_section(results)]
    for make in (_reconstructions, _tradeoff, _curves):
        section = make(results, out, origin)
        if section is not None:
            sections.append(section)
    sections.append(_settings(results))
    sections.append(_limits(results))
    notice = "This run was stopped early; what it had measured by then is shown." if results.interrupted else ""
    lead = [
        "A federation trains an image classifier. An honest-but-curious server intercepts single updates and tries to "
        "reconstruct the images behind them. The same attack then meets two defenses, and the price is shown."
    ]
    report = Report("What an update gives away", sections, lead=lead, provenance=origin, notice=notice)
    return report.write(out / "report.html")


def _reconstructions(results: Results, out: Path, origin: dict[str, Any]) -> Section | None:
    if not results.exposed:
        return None
    n = results.plan.images
    first = next(iter(results.exposed.values()))
    rows = {label: e.found[:n] for label, e in results.exposed.items()}
    captions = {
        label: [text for s in e.scores for text in quality_captions(s)][:n] for label, e in results.exposed.items()
    }
    figure = reconstruction_grid(first.originals[:n], rows, captions, columns=n)
    caption = (
        "Originals, and what the server reconstructed from the update, or from the secure sum, under each defense. "
        f"PSNR in dB and SSIM; {results.plan.threshold_db:g} dB counts as reconstructed."
    )
    save(figure, out / "reconstructions", {"title": "Reconstructions", "caption": caption, **origin})
    rows_shown = [
        {**r, "reconstructed": f"{r['reconstructed']} of {r['images']}"} for r in results.rows() if "images" in r
    ]
    table = Table(
        rows_shown,
        [
            "arm",
            "reconstructed",
            "success_interval",
            "psnr_mean",
            "ssim_mean",
            "label_accuracy",
            "evaluations",
            "seconds",
        ],
        caption="Reconstruction by defense",
        names={
            "arm": "Defense",
            "success_interval": "95% interval",
            "label_accuracy": "Labels found",
            "evaluations": "Evaluations",
        },
        note="Success intervals are Wilson's; images of one secure sum are not independent, so theirs is a lower bound "
        "on the doubt. Seconds and gradient evaluations are the attack's own, over all images, without compilation.",
    )
    picture = Figure(figure, "Rows of images: originals, then reconstructions under each defense.", caption)
    return Section("Reconstructions", [first.threat], [picture], [table])


def points(results: Results) -> list[Point]:
    """The arms as points of the privacy-utility figure."""
    made = []
    for arm in results.plan.arms():
        exposed, trained = results.exposed.get(arm.label), results.trained.get(arm.label)
        if exposed is None and trained is None:
            continue
        summary = exposed.summary if exposed else None
        values = [i.psnr for s in exposed.scores for i in s.images if i.psnr is not None] if exposed else []
        made.append(
            Point(
                {"none": "No defense", "noise": "DP noise at the client", "sum": "Secure aggregation"}[arm.kind],
                {"none": 0.0, "noise": arm.noise, "sum": None}[arm.kind],
                trained.history.accuracy if trained else None,
                summary.psnr_mean if summary else None,
                trained.epsilon_server if trained else None,
                psnr_values=tuple(min(v, PSNR_CAP) for v in values),
                slot=arm.label.lower() if arm.kind == "sum" else "",
            )
        )
    return made


def _tradeoff(results: Results, out: Path, origin: dict[str, Any]) -> Section | None:
    made = points(results)
    if not any(p.accuracy is not None for p in made):
        return None
    plan = results.plan
    figure = privacy_utility(made, delta=plan.delta, threshold_db=plan.threshold_db)
    caption = (
        f"Test accuracy after {plan.rounds} rounds, and the reconstruction quality of single updates, against the "
        f"noise each client adds. Epsilon is against the server, at delta {plan.delta:g}, over all rounds."
    )
    save(figure, out / "privacy_utility", {"title": "Privacy and utility", "caption": caption, **origin})
    table = Table(
        results.rows(),
        ["arm", "accuracy", "epsilon_server", "epsilon_released", "psnr_mean", "bytes_up_per_client_round"],
        caption="What each defense costs",
        names={
            "arm": "Defense",
            "epsilon_server": "Epsilon against the server",
            "epsilon_released": "Epsilon of the released model",
            "bytes_up_per_client_round": "Bytes up per client and round",
        },
        note="A blank epsilon means that no formal guarantee is claimed, not that it is zero. Against the server the "
        "guarantee covers each client's whole contribution in every round it takes part in, without amplification.",
    )
    picture = Figure(figure, "Accuracy and reconstruction quality against the noise multiplier.", caption)
    return Section("Privacy and utility", [], [picture], [table])


def _curves(results: Results, out: Path, origin: dict[str, Any]) -> Section | None:
    runs = {label: t.history for label, t in results.trained.items() if t.history.accuracy is not None}
    if not runs:
        return None
    figure = training_curves(runs)
    caption = "Test accuracy and test loss over the rounds, by defense."
    save(figure, out / "training_curves", {"title": "Training", "caption": caption, **origin})
    return Section("Training", [], [Figure(figure, "Accuracy and loss over rounds, one line a defense.", caption)])


def conclusion(results: Results) -> list[str]:
    """Plain sentences by fixed rules from the numbers: an arm is said to do something only if its figures do."""
    plan, rows = results.plan, results.rows()
    by_label = {r["arm"]: r for r in rows}
    sentences = []
    bare = by_label.get("No defense", {})
    if "reconstructed" in bare:
        sentences.append(
            f"Without a defense the server reconstructed {bare['reconstructed']} of {bare['images']} images from "
            f"single updates at {plan.threshold_db:g} dB or better (mean PSNR {bare['psnr_mean']:.1f} dB)."
        )
    noisy = [r for r in rows if r["noise"] is not None]
    attacked = [r for r in noisy if "reconstructed" in r]
    stopped = [r for r in attacked if r["reconstructed"] == 0]
    if stopped:
        least = min(stopped, key=lambda r: r["noise"])
        sentences.append(
            f"The least noise that left no image at {plan.threshold_db:g} dB was a multiplier of {least['noise']:g} "
            f"(mean PSNR {least['psnr_mean']:.1f} dB{_recognizable(least)})."
        )
    hidden = [r for r in stopped if r["ssim_mean"] < HIDDEN_SSIM]
    if hidden:
        least = min(hidden, key=lambda r: r["noise"])
        text = (
            f"The least noise that also hid what the images show (mean SSIM below {HIDDEN_SSIM:g}) was a multiplier of "
            f"{least['noise']:g}"
        )
        if least.get("accuracy") is not None and bare.get("accuracy") is not None:
            text += (
                f"; test accuracy there was {least['accuracy']:.3f}, against {bare['accuracy']:.3f} without a defense"
            )
        sentences.append(text + ".")
        if least.get("epsilon_server") is not None:
            sentence = f"Its epsilon against the server is {least['epsilon_server']:.3g}"
            if least["epsilon_server"] > MEANINGFUL:
                sentence += (
                    f", above {MEANINGFUL:g} and so no meaningful guarantee: that this attack fails is an observation "
                    "about this attack, not a bound on every attack"
                )
            sentences.append(sentence + ".")
    elif attacked:
        sentences.append("No noise level tried here hid what the images show.")
    measured = [r for r in noisy if r.get("accuracy") is not None and r.get("epsilon_server") is not None]
    if measured:
        most = max(measured, key=lambda r: r["noise"])
        versus = "" if bare.get("accuracy") is None else f", against {bare['accuracy']:.3f} without a defense"
        sentences.append(
            f"The most noise, a multiplier of {most['noise']:g}, gave an epsilon of {most['epsilon_server']:.3g} "
            f"against the server, at test accuracy {most['accuracy']:.3f}{versus}."
        )
    sums = [(arm, by_label[arm.label]) for arm in plan.arms() if arm.kind == "sum" and arm.label in by_label]
    for arm, row in sums:
        if "reconstructed" in row:
            sentences.append(
                f"From the secure sum of {arm.cohort} clients the attack reconstructed {row['reconstructed']} of "
                f"{row['images']} images at {plan.threshold_db:g} dB or better (mean PSNR {row['psnr_mean']:.1f} dB"
                f"{_recognizable(row)})."
            )
    accuracies = [row["accuracy"] for _, row in sums if row.get("accuracy") is not None]
    if accuracies and bare.get("accuracy") is not None:
        sentences.append(
            f"Training under secure aggregation reached {accuracies[0]:.3f} test accuracy, against "
            f"{bare['accuracy']:.3f} without a defense. It hides single updates in their sum; it bounds nothing about "
            "what the sum gives away."
        )
    return sentences or ["Nothing was measured before the run was stopped."]


def _recognizable(row: dict[str, Any]) -> str:
    """Says so where a failed reconstruction still shows its image."""
    if row["reconstructed"] or row.get("ssim_mean") is None or row["ssim_mean"] < HIDDEN_SSIM:
        return ""
    return f", but mean SSIM {row['ssim_mean']:.2f}: what the images show can still be made out"


def _conclusion_section(results: Results) -> Section:
    return Section("In plain words", conclusion(results))


def _settings(results: Results) -> Section:
    plan = results.plan
    rows = [{"setting": k.replace("_", " "), "value": str(v)} for k, v in plan.config().items() if v is not None]
    files = [(f"{n}.csv", f"{n}.csv") for n in ("summary", "images", "rounds")] + [("demo.json", "demo.json")]
    text = (
        f"Attacked: one FedSGD update from one image a client, at freshly initialized weights. Trained: FedAvg, "
        f"{plan.clients} clients, {plan.cohort} a round, {plan.rounds} rounds, uniform weights."
    )
    return Section("Settings", [text], tables=[Table(rows, caption="Settings")], files=files)


def _limits(results: Results) -> Section:
    return Section(
        "What this does not show",
        [
            "The attacked case is the attacker's best: one image, one local step, an untrained network with a smooth "
            "activation. Larger batches, more local steps and later rounds are harder.",
            "The attack knows of clipping and replays it, but uses no image prior and no denoising; an attack made for "
            "noise may get further at low noise levels than this one.",
            f"{results.plan.images} images and one training seed give wide intervals. This is a first look, not a "
            "benchmark.",
            "Noise here comes from a reproducible generator in floating point, as research needs; a deployment needs a "
            "cryptographic generator and discrete noise.",
        ],
    )
