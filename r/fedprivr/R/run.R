#' Train a model by federated learning
#'
#' @param data an [fp_dataset()], a data frame whose last column is to be predicted, or what `fedpriv train --data`
#'   takes: a name such as `"fashion_small"`, or a path.
#' @param model a name such as `"2nn"` or `"mlp(hidden=[32])"`, or a Keras model from reticulate.
#' @param clients,cohort how many there are, and how many take part in a round: 10, or all without a server.
#' @param rounds how many.
#' @param partition who holds what: `"iid"`, `"dirichlet(alpha=0.3)"`, `"shards(per_client=2)"`, `"natural"`, ...
#' @param defenses as on the command line, such as `"clip(norm=1)"`, in order.
#' @param epochs,batch,rate of a client's training. `batch = NULL` takes all its examples at once: with one epoch and
#'   rate 1 this is FedSGD.
#' @param weighting of clients in the mean: `"examples"`, or `"uniform"`, which differential privacy needs.
#' @param intercept rounds, from 1, of which `adversary` keeps what it sees, for [fp_attack()].
#' @param adversary who listens, such as `"server"` or `"observer"`.
#' @param seed makes the run repeat; NULL draws 128 bits, as protection needs.
#' @param topology `"server"`, or who sends to whom without one, such as `"gossip(graph=torus)"`.
#' @param ... more of fedpriv's `Federation`, such as `engine = "tff"`.
#' @return an `fp_table` with one row a round, `round` counted from 1. Its attributes hold the Python objects `history`
#'   and `observations`.
#' @examples
#' \dontrun{
#' fp_train(fp_dataset(iris, target = "Species"), "logistic", clients = 10, cohort = 10)
#' }
#' @export
fp_train <- function(data = "fashion_small", model = "2nn", clients = 100,
                     cohort = if (identical(topology, "server")) 10, rounds = 5, partition = "iid",
                     defenses = character(), epochs = 1, batch = 10, rate = 0.1, weighting = "examples",
                     intercept = integer(), adversary = "server", seed = NULL, topology = "server", ...) {
  more <- check_given(as.list(environment()), list(...), fp()$Federation, c("train", "test", "procedure"))
  seed <- whole(seed, "seed", 0)
  sampling <- if (is.null(cohort)) list(kind = "full") else list(kind = "fixed", size = whole(cohort, "cohort"))
  heard <- lapply(intercept, whole, "intercept", most = whole(rounds, "rounds"))
  sets <- data_of(data)
  history <- fp_try({
    federation <- do.call(fp()$Federation, c(list(
      model_of(model, sets[[1]]), sets[[1]],
      fp()$make_partition(text(partition, "partition"), sets[[1]], whole(clients, "clients"), c(seed, 0L)[1]),
      fp()$make_procedure(
        local_epochs = whole(epochs, "epochs"), batch_size = whole(batch, "batch"),
        client = list(learning_rate = rate), sampling = sampling, weighting = weighting
      ),
      defenses = defenses_of(defenses), test = sets[[2]], seed = seed,
      rounds = whole(rounds, "rounds"), topology = text(topology, "topology")
    ), more))
    on.exit(federation$close())
    tap <- fp()$Tap(fp()$Adversary$parse(text(adversary, "adversary")), rounds = lapply(heard, function(k) k - 1L))
    federation$run(whole(rounds, "rounds"), taps = list(tap)[seq_len(length(heard) > 0)])
  })
  rows <- lapply(lapply(history$records, function(r) r$row()), function(r) c(r[names(r) != "metrics"], r$metrics))
  warned <- names(fp("rounds.record")$warnings_of(lapply(history$records, function(r) as.list(r$warnings))))
  title <- sprintf("training, %s clients a round", c(cohort, clients)[1])
  table <- as_table(rows, title, c(warned, account(history$ledger)))
  table$round <- as.integer(table$round + 1)
  structure(table, history = history, observations = history$observations)
}

#' Reconstruct what is behind intercepted updates
#'
#' @param attack a name such as `"dlg"`, `"first_layer"` or `"modern(steps=500)"`.
#' @param on what is attacked: an [fp_train()] with `intercept`, or a list of its observations, or one of a
#'   captured round: `capture$observation(x, y)`. NULL makes rounds only to be attacked, from the following arguments.
#' @param data,model,defenses,adversary,seed as in [fp_train()].
#' @param images how many cohorts are attacked; with one client and one example each these are as many images.
#' @param batch,cohort examples a client, and clients a cohort.
#' @param ... more of fedpriv's `Exposure`.
#' @return an `fp_table` with one row an example; where the attack does not apply, `status` says why. See [fp_images()]
#'   for what was found.
#' @examples
#' \dontrun{
#' fp_attack("dlg", images = 2)
#' }
#' @export
fp_attack <- function(attack = "modern", on = NULL, data = "fashion_small", model = "lenet(init=uniform)", images = 1,
                      defenses = character(), adversary = "server", batch = 1, cohort = 1, seed = 0, ...) {
  more <- check_given(as.list(environment()), list(...), fp()$Exposure, "trials")
  seed <- whole(seed, "seed", 0)
  made <- fp_try({
    attack <- fp()$make_attack(text(attack, "attack"))
    if (is.null(on)) {
      set <- data_of(data)[[1]]
      exposure <- do.call(fp()$Exposure, c(list(
        model_of(model, set), set, whole(images, "images"), batch = whole(batch, "batch"),
        cohort = whole(cohort, "cohort"), defenses = defenses_of(defenses),
        adversary = fp()$Adversary$parse(text(adversary, "adversary")), seed = seed
      ), more))
      reticulate::iterate(fp("rounds.attempts")$attempts(attack, exposure, seed = seed, control = "none"))
    } else {
      heard <- if (inherits(on, "fp_table")) attr(on, "observations") else if (is.list(on)) on else list(on)
      seen <- vapply(heard, inherits, TRUE, "fedpriv.threat.observation.Observation")
      if (!all(seen)) refuse("ParameterError", "on is a %s; give what fp_train(intercept = 1) returned", class(on)[1])
      if (!length(heard)) refuse("ParameterError", "nothing was intercepted; train with intercept = 1")
      goal <- fp("threat.goal")$goal_of(attack)
      Map(function(seen, number) {
        list(observation = seen, result = fp("rounds.trial")$try_trial(attack, seen, seed + number, goal))
      }, heard, seq_along(heard) - 1L)
    }
  })
  unfit <- function(one) inherits(one$result, "fedpriv.rounds.trial.Inapplicable")
  applied <- Filter(Negate(unfit), made)
  rows <- unlist(Map(function(one, number) {
    if (unfit(one)) return(list(list(update = number, status = one$result$reason)))
    lapply(one$result$score$rows(), function(row) c(list(update = number, status = "done"), row))
  }, made, seq_along(made)), recursive = FALSE)
  seen <- lapply(applied, function(one) one$observation)
  ignored <- unique(unlist(lapply(applied, function(one) one$result$ignored)))
  notes <- c(if (length(applied)) applied[[1]]$result$threat,
             if (length(ignored)) paste("Not taken into account:", paste(ignored, collapse = ", ")),
             unique(unlist(lapply(seen, function(one) one$warnings))),
             if (length(made) > length(applied)) "Where the attack does not apply, the column 'status' says why.")
  structure(as_table(rows, sprintf("attack %s, %d views", attack$name, length(made)), notes), attempts = applied)
}

#' What an attack found, and what it looked for, as one row a pixel
#'
#' @param found an [fp_attack()] on images.
#' @return a data frame for `ggplot2::geom_raster()`: `image`, `what` (`original` or `found`), `row`, `column`,
#'   `channel`, `value`. An image that was not found has none for `found`.
#' @export
fp_images <- function(found) {
  long <- function(x, image, what) {
    at <- expand.grid(row = seq_len(dim(x)[1]), column = seq_len(dim(x)[2]), channel = seq_len(dim(x)[3]))
    data.frame(image = image, what = factor(what, c("original", "found")), at, value = as.vector(x))
  }
  if (!length(attr(found, "attempts"))) refuse("ParameterError", "nothing was found; give an fp_attack() that applies")
  aligned <- fp("metrics.score")$aligned
  parts <- lapply(attr(found, "attempts"), function(one) {
    truth <- one$observation$truth$x
    if (length(dim(truth)) != 4) refuse("DataError", "these examples are no images; see the table itself")
    list(truth = truth, made = aligned(one$result$finding, one$result$score))
  })
  image <- 0
  rows <- list()
  for (part in parts) for (k in seq_len(dim(part$truth)[1])) {
    image <- image + 1
    take <- function(x) array(x[k, , , ], dim(x)[-1])
    rows <- c(rows, list(long(take(part$truth), image, "original")))
    if (!is.null(part$made) && all(is.finite(part$made[k, , , ]))) {
      rows <- c(rows, list(long(take(part$made), image, "found")))
    }
  }
  do.call(rbind, rows)
}

#' Run an experiment's grid
#'
#' Runs what is not done yet of a YAML file's grid, and writes its report, as `fedpriv run` does.
#' @param file a YAML file, or a shipped experiment's name, such as `"demo"`.
#' @param out folder of the results; `results/NAME` by default.
#' @param set overrides, such as `"training.rounds=5"`.
#' @param quick the file's quick size.
#' @return the tidy table (`table.csv` of the folder) as an `fp_table`: one row an image.
#' @examples
#' \dontrun{
#' fp_run("demo", quick = TRUE)
#' }
#' @export
fp_run <- function(file, out = file.path("results", tools::file_path_sans_ext(basename(file))), set = character(),
                   quick = FALSE) {
  check_given(list(file = text(file, "file"), out = out, set = set, quick = quick))
  fp()
  folder <- reticulate::import("pathlib")$Path(path.expand(out))
  failed <- tryCatch(
    fp_try(fp("cli.experiment")$run(path.expand(file), folder, as.list(set), quick)),
    fedpriv_error = stop,
    error = function(e) if (grepl("Exit", conditionMessage(e))) "jobs" else stop(e)
  )
  if (!is.null(failed)) warning("some jobs failed; see the column 'status', and ", file.path(out, "report.html"))
  table <- utils::read.csv(file.path(out, "table.csv"), check.names = FALSE)
  truth <- vapply(table, function(v) is.character(v) && all(v %in% c("True", "False", "")), TRUE)
  table[truth] <- lapply(table[truth], function(v) as.logical(toupper(v)))
  new_table(table, paste("experiment", basename(file)), paste("Report:", file.path(out, "report.html")))
}

# NA would arrive as TRUE. `more` is what `...` holds, for fedpriv's `made`, which takes `own` from elsewhere; it comes
# back as the types that `made` declares.
check_given <- function(given, more = list(), made = NULL, own = NULL) {
  if (length(more)) {
    known <- setdiff(reticulate::import("inspect")$getfullargspec(made)$args, c("self", own, names(given)))
    odd <- setdiff(c(names(more), "")[seq_along(more)], known)
    if (length(odd)) refuse("ParameterError", "there is no argument '%s'; there are %s", odd[1],
                            paste(c(names(given), known), collapse = ", "))
  }
  na <- Filter(function(value) is.atomic(value) && anyNA(value), c(given, more))
  if (length(na)) refuse("ParameterError", "%s is NA; give a value, or leave it out", names(na)[1])
  if (length(more)) fp_try(fp("base.given")$as_declared(made, more)) else more
}

whole <- function(x, name, least = 1, most = .Machine$integer.max) {
  if (!is.null(x) && (!is.numeric(x) || length(x) != 1 || is.na(x) || x != round(x) || x < least || x > most)) {
    refuse("ParameterError", "%s = %s is no whole number from %d to %d; give one", name, deparse(x)[1], least, most)
  }
  if (!is.null(x)) as.integer(x)
}

text <- function(x, name) {
  if (is.character(x) && length(x) == 1) return(x)
  refuse("ParameterError", "%s = %s is no text; give one, as in ?fp_train and ?fp_attack", name, deparse(x)[1])
}

model_of <- function(model, set) {
  named <- !inherits(model, "python.builtin.object")
  if (named) return(fp()$load_model(text(model, "model"), set$input_shape, set$num_classes))
  if (inherits(model, "fedpriv.models.model.Model")) model else fp()$from_keras(model)
}

defenses_of <- function(defenses) lapply(defenses, function(d) fp()$make_defense(text(d, "defenses")))

account <- function(ledger) {
  if (is.null(ledger)) return("No formal privacy guarantee: no defense here makes one.")
  vapply(c("released", "server"), function(against) tryCatch(
    sprintf("Against '%s': %s", against, as.character(fp_try(ledger$epsilon(1e-5, against = against)))),
    fedpriv_error = function(e) sprintf("Against '%s': no guarantee (%s)", against, conditionMessage(e))
  ), "")
}

as_table <- function(rows, title, notes) {
  flat <- function(x) if (is.null(x)) NA else if (is.list(x) || length(x) != 1) paste(unlist(x), collapse = " ") else x
  names <- unique(unlist(lapply(rows, names)))
  columns <- lapply(names, function(n) unlist(lapply(rows, function(row) flat(row[[n]]))))
  new_table(data.frame(stats::setNames(columns, names), check.names = FALSE), title, notes)
}

new_table <- function(frame, title, notes) {
  structure(frame, class = c("fp_table", "data.frame"), title = title, notes = notes)
}

#' @export
print.fp_table <- function(x, n = 10, width = getOption("width"), ...) {
  cat(strwrap(sprintf("# fedpriv %s: %d x %d", c(attr(x, "title"), "table")[1], nrow(x), ncol(x)), width), sep = "\n")
  shown <- utils::head(as.data.frame(unclass(x)[names(x)], check.names = FALSE), n)
  short <- function(v) ifelse(nchar(v) > 30, paste0(substr(v, 1, 27), "..."), v)
  shown[] <- lapply(shown, function(v) if (is.numeric(v)) signif(v, 4) else if (is.character(v)) short(v) else v)
  told <- !nrow(x) | vapply(shown, function(v) !all(is.na(v) | v == ""), TRUE)
  wide <- vapply(names(shown), function(v) max(nchar(c(v, format(shown[[v]]))), 0) + 1, 1)
  fits <- told & cumsum(wide * told) + nchar(nrow(shown)) < width
  print.data.frame(shown[fits])
  left <- c(if (nrow(x) > n) sprintf("%d more rows", nrow(x) - n),
            if (any(!fits)) paste0(sum(!fits), " more columns: ", paste(names(shown)[!fits], collapse = ", ")))
  notes <- c(if (length(left)) paste("...", paste(left, collapse = ", and ")), attr(x, "notes"))
  for (note in notes) cat(strwrap(note, width, initial = "# ", prefix = "#   "), sep = "\n")
  invisible(x)
}
