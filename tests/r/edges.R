# What R hands over, and what is refused. Run after the walk, in its session; each line is read by tests/test_r.py.
say <- function(name, ...) cat("EDGE", name, ..., "\n")
refusal <- function(name, expr) {
  said <- tryCatch({ force(expr); "accepted" }, fedpriv_error = function(e) paste(class(e)[1], conditionMessage(e)))
  say(name, said)
}

# Arrays lie by columns in R: example 3 must stay example 3.
set.seed(1)
images <- array(round(runif(40 * 8 * 6), 3), c(40, 8, 6))
kind <- factor(rep(c("low", "high"), 20), levels = c("low", "high", "never"))
sets <- fp_dataset(images, kind, test = 0.1)
same <- function(a) which(apply(images, 1, function(b) isTRUE(all.equal(as.vector(a), as.vector(b), tolerance = 1e-6))))
x <- sets[[1]]$x
from <- apply(x, 1, function(a) same(a))
say("shape", dim(x))
say("rows", length(unique(from)), all(as.integer(kind)[from] - 1 == sets[[1]]$y))
say("levels", unlist(sets[[1]]$class_names))
levels255 <- fp_dataset(array(0:255, c(32, 4, 2)), rep(0:1, 16), test = 0)
say("levels255", max(levels255[[1]]$floats()))
ordered <- data.frame(dose = factor(c("b", "a", "c", "a"), levels = c("c", "b", "a")), n = c(1.5, 2, 3, 4),
                      ok = c(TRUE, FALSE, TRUE, TRUE), out = factor(c("y", "x", "y", "x"), levels = c("y", "x")))
frame <- fp_dataset(ordered, test = 0)[[1]]
say("frame", unlist(frame$kind$fields[[1]]$values), unlist(frame$class_names), frame$y)
back <- frame$kind$decode(frame$x, frame$y)
say("decoded", paste(sort(paste(back$dose, round(back$n, 3), back$ok, back$out)), collapse = "; "))
say("quantities", fp_dataset(matrix(runif(20), 10), runif(10), test = 0)[[1]]$num_classes)

holed <- function(v) data.frame(a = c(1, 2, 3, 4), b = v, out = c("u", "v", "u", "v"))
refusal("na_real", fp_dataset(holed(c(1, NA, 2, 3))))
refusal("na_int", fp_dataset(holed(c(1L, 2L, NA, 3L))))
refusal("na_logical", fp_dataset(holed(c(NA, TRUE, FALSE, TRUE))))
refusal("na_text", fp_dataset(holed(c("p", "q", "p", NA))))
refusal("na_factor", fp_dataset(holed(factor(c("p", NA, "p", "q")))))
refusal("na_label", fp_dataset(matrix(runif(8), 4), factor(c("p", "q", NA, "p"))))
refusal("na_pixel", fp_dataset(array(c(NA, runif(7)), c(2, 2, 2)), 0:1))
refusal("na_reading", fp_mean(c(1, NA, 3), c("a", "b", "b")))
refusal("text_array", fp_dataset(matrix("a", 2, 2), 0:1))
refusal("date", fp_dataset(holed(as.Date("2024-01-01") + 0:3)))
refusal("list", fp_dataset(holed(I(list(1, 2, 3, 4)))))
refusal("lengths", fp_dataset(matrix(0.5, 4, 2), 0:2))
refusal("model", fp_train(model = "2nm", seed = 1))
refusal("not_whole", fp_train(rounds = 2.5, seed = 1))
refusal("nothing_heard", fp_attack("first_layer", on = training))
refusal("table", fp_images(fp_attack("first_layer", data = flowers, model = "mlp(hidden=[16])")))
unfit <- fp_attack("first_layer", on = listen(defenses = "ckks(range=4,fraction=0.5)"))
say("unfit", nrow(unfit), unfit$status[1])
refusal("yaml", fp_run("no_such_grid"))
refusal("checkout", fp_install(tempdir()))
bug <- tryCatch(fp_try(fp()$make_partition(1, 2, 3, 4, 5, 6)), error = function(e) class(e))
say("bug", !"fedpriv_error" %in% bug)

# Plain reticulate, without fp_dataset: NA of whole numbers and texts is still seen in Python.
plainly <- function(...) tryCatch({ fp()$from_arrays(...); "accepted" }, error = conditionMessage)
say("plain_int", plainly(matrix(runif(6), 3), as.array(c(0L, NA, 1L))))
say("plain_text", plainly(matrix(runif(6), 3), factor(c("p", NA, "q"))))
whole <- tryCatch(fp("data.table")$from_frame(holed(c(1L, 2L, NA, 3L)), "t"), error = conditionMessage)
say("plain_frame", whole)
