#' Data of your own, for training and attacks
#'
#' A data frame becomes a table: numbers are standardized, factors, texts and logicals are categories. An array becomes
#' examples: images `[n, height, width]` or `[n, height, width, channels]`, or features `[n, k]`. A factor's levels are
#' the names of the classes, in their order. Missing values are refused, with the column and the row.
#' @param x a data frame, or an array whose first dimension counts the examples.
#' @param y with an array: a factor, names or whole numbers from 0 for classes, or quantities.
#' @param target with a data frame: the column to predict; the last by default.
#' @param keys whose each row is, for `partition = "natural"`: the name of a data frame's column, or an array's vector.
#' @param test share of the rows held out for testing.
#' @param name what to call it.
#' @param kind of arrays: what examples are, such as `"features"` for numbers of any range.
#' @return an `fp_data`: list of a training and a test set of Python's.
#' @examples
#' \dontrun{
#' fp_dataset(iris, target = "Species")
#' }
#' @export
fp_dataset <- function(x, y = NULL, target = NULL, keys = NULL, test = 0.2, name = "data", kind = NULL) {
  check_given(list(target = target, test = test, name = name, kind = kind))
  if (!is.numeric(test) || length(test) != 1 || test < 0 || test >= 1) {
    refuse("ParameterError", "test = %s is no share; give a number from 0 to below 1", deparse(test)[1])
  }
  check_known(keys, "keys")
  if (is.data.frame(x)) {
    if (nrow(x) < 2) refuse("DataError", "x has %d rows; give two or more", nrow(x))
    for (column in names(x)) check_column(x[[column]], sprintf("column '%s'", column))
    made <- fp_try(fp("data.table")$from_frame(as.data.frame(x), name, target, test_fraction = test, keys = keys))
    return(structure(made, class = "fp_data"))
  }
  if (!is.numeric(x) || length(dim(x)) < 2) {
    refuse("DataError", "x is a %s; give a data frame, or an array of numbers [n, ...]", class(x)[1])
  }
  if (is.null(y)) refuse("DataError", "an array x needs y: a factor of classes, or numbers")
  if (length(y) != dim(x)[1]) refuse("DataError", "x has %d examples and y %d; give one a row", dim(x)[1], length(y))
  check_known(x, "x")
  check_known(y, "y")
  names <- if (is.factor(y)) as.list(levels(y)) else list()
  quantities <- is.numeric(y) && any(y != round(y))
  y <- if (is.factor(y)) as.integer(y) - 1L else y
  if (!is.null(keys)) keys <- as.array(as.character(keys))
  structure(fp_try(fp()$from_arrays(
    x, as.array(y), name, class_names = names, num_classes = if (quantities) 0L, test_fraction = test,
    keys = keys, kind = kind
  )), class = "fp_data")
}

check_column <- function(values, what) {
  plain <- is.numeric(values) || is.logical(values) || is.character(values) || is.factor(values)
  if (!plain || length(dim(values)) || inherits(values, "integer64")) {
    refuse("DataError", "%s is a %s; make it numbers, a factor, texts or logicals", what, class(values)[1])
  }
  check_known(values, what)
}

check_known <- function(values, what) {
  rows <- which(if (is.null(dim(values))) is.na(values) else apply(is.na(values), 1, any))
  if (length(rows)) {
    refuse("DataError", paste("%s has %d missing values (NA; the first in row %d); fill them, or leave those rows out,",
                              "as na.omit() does"), what, sum(is.na(values)), rows[1])
  }
}

#' @export
print.fp_data <- function(x, ...) {
  sets <- Filter(Negate(is.null), unclass(x))
  sizes <- vapply(sets, function(s) length(s$y), 1)
  classes <- unlist(sets[[1]]$class_names)
  cat(sprintf("# fedpriv data '%s': %s, %d for testing\n# each [%s], %s\n",
    sets[[1]]$name, paste(sizes[1], "examples"), if (length(sizes) > 1) sizes[2] else 0,
    paste(unlist(sets[[1]]$input_shape), collapse = ", "),
    if (sets[[1]]$num_classes == 0) "targets are quantities"
    else paste(sets[[1]]$num_classes, "classes:", paste(utils::head(classes, 10), collapse = ", "))))
  invisible(x)
}

data_of <- function(data) {
  if (inherits(data, "fp_data")) data else if (is.character(data)) fp_try(fp()$load(data)) else fp_dataset(data)
}

#' The federated mean: each client's numbers stay where they are
#'
#' Each client shares out the sum of its numbers, and how many they are, among aggregators by secret sharing. Only the
#' mean of all comes out.
#' @param readings numbers from -100 to 100.
#' @param client whose each number is: a factor, or what can be one.
#' @return the mean, with an attribute `held`: what one aggregator holds of each client, in hexadecimal.
#' @examples
#' \dontrun{
#' fp_mean(c(20.1, 19.4, 25), c("north", "north", "south"))
#' }
#' @export
fp_mean <- function(readings, client) {
  if (!is.numeric(readings) || !length(readings) || length(readings) != length(client)) {
    refuse("DataError", "readings are no numbers, or not as many as client; give numbers, and one client for each")
  }
  check_known(readings, "readings")
  check_known(client, "client")
  clients <- split(as.numeric(readings), client, drop = TRUE)
  far <- readings[abs(readings) > 100]
  if (length(far)) refuse("DataError", "%g is beyond 100, for which there is no room; rescale", far[1])
  fp()
  mean <- fp_try(reticulate::import("fedpriv_experiments.tff_tour.federated_mean", convert = FALSE))
  made <- fp_try(mean$secretly(lapply(unname(clients), as.array)))
  written <- function(share) as.character(reticulate::import_builtins()$format(share, "016x"))
  shares <- lapply(seq_along(clients), function(i) vapply(0:1, function(k) written(made[1][i - 1L][k]), ""))
  structure(reticulate::py_to_r(made[0]), held = stats::setNames(shares, names(clients)))
}
