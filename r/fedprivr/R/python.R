#' The Python module fedpriv, or one of its modules
#'
#' Everything that fedpriv has in Python can be used from R: `fp()$load("clinic")`. Python is looked for when fedprivr
#' is loaded, or else when it is first needed: `RETICULATE_PYTHON`, then a `.venv` in the working directory or above it,
#' then what [fp_install()] made. Wrap a call in [fp_try()] to get its error as a condition.
#' @param module name below fedpriv, such as `"rounds.exposure"`; the default is fedpriv itself.
#' @return a Python module.
#' @examples
#' \dontrun{
#' fp()$load("clinic")[[1]]$class_names
#' }
#' @export
fp <- function(module = NULL) {
  if (!choose_python()) refuse("PythonError", "no Python has fedpriv; run fp_install(), or set RETICULATE_PYTHON")
  name <- paste(c("fedpriv", module), collapse = ".")
  tryCatch({
    reticulate::import("importlib.metadata")$version("fedpriv") # a checkout's folder can be imported, without plug-ins
    reticulate::import("fedpriv.base.lazy")$quiet_tensorflow()
    reticulate::import(name)
  }, error = function(e) {
    refuse("PythonError", "%s has no %s: %s. Run fp_install(checkout) or set RETICULATE_PYTHON, and restart R.",
           Sys.getenv("RETICULATE_PYTHON", "Python"), name, sub("\n.*", "", conditionMessage(e)))
  })
}

choose_python <- function() {
  if (reticulate::py_available() || nzchar(Sys.getenv("RETICULATE_PYTHON"))) return(TRUE)
  !is.null(python <- find_python()) && Sys.setenv(RETICULATE_PYTHON = python)
}

.onLoad <- function(...) choose_python()

find_python <- function(folder = getwd()) {
  above <- folder
  while (dirname(above[1]) != above[1]) above <- c(dirname(above[1]), above)
  found <- c(file.path(rev(above), ".venv", "bin", "python"), file.path(home(), "bin", "python"))
  has <- file.exists(found) & lengths(lapply(dirname(dirname(found)), function(f) {
    Sys.glob(file.path(f, "lib", "python3.*", "site-packages", "fedpriv-*"))
  })) > 0
  if (any(has)) found[has][1] else NULL
}

home <- function() file.path(tools::R_user_dir("fedprivr", "data"), "python")

#' Install fedpriv's Python side
#'
#' Makes a Python environment of fedprivr's own, and installs fedpriv into it from a checkout: by uv, which also brings
#' Python 3.11, or by that Python's pip.
#' @param checkout folder with fedpriv's `pyproject.toml`.
#' @return the environment's Python, invisibly.
#' @examples
#' \dontrun{
#' fp_install("fedpriv")
#' }
#' @export
fp_install <- function(checkout = ".") {
  files <- file.path(checkout, c("pyproject.toml", "requirements.txt"))
  if (!all(file.exists(files))) refuse("DataError", "'%s' is no checkout of fedpriv; give its folder", checkout)
  python <- file.path(home(), "bin", "python")
  uv <- Sys.which("uv")
  run <- function(...) {
    command <- c(...)
    if (system2(command[1], shQuote(command[-1]))) refuse("PythonError", "could not be run: %s", toString(command))
  }
  dir.create(dirname(home()), recursive = TRUE, showWarnings = FALSE)
  if (nzchar(uv)) run(uv, "venv", "--quiet", "--python", "3.11", home()) else run("python3.11", "-m", "venv", home())
  installer <- if (nzchar(uv)) c(uv, "pip", "install", "--python", python) else c(python, "-m", "pip", "install")
  pip <- function(...) run(installer, "--no-deps", ...)
  pip("-r", files[2])
  pip(normalizePath(checkout))
  invisible(python)
}

#' Errors of fedpriv as R conditions
#'
#' What fedpriv refuses, it says in a sentence. That sentence becomes the message of an R error, without Python's
#' traceback. Its classes are `fedpriv_` and the name of the Python class, such as `fedpriv_DataError`, and
#' `fedpriv_error` for all of them. Other errors stay as they are.
#' @param expr what may fail.
#' @return its value.
#' @examples
#' \dontrun{
#' tryCatch(fp_try(fp()$load("clinics")), fedpriv_error = conditionMessage)
#' }
#' @export
fp_try <- function(expr) {
  if (reticulate::py_available()) reticulate::py_clear_last_error()
  tryCatch(expr, error = function(e) {
    raised <- if (inherits(e, "python.builtin.BaseException")) e
    else if (reticulate::py_available() && !inherits(e, "fedpriv_error")) attr(reticulate::py_last_error(), "exception")
    if (!inherits(raised, "fedpriv.base.errors.FedprivError")) stop(e)
    refuse(sub(".*\\.", "", class(raised)[1]), "%s", reticulate::py_str(raised))
  })
}

refuse <- function(kind, ...) {
  kinds <- c(paste0("fedpriv_", kind), "fedpriv_error", "error", "condition")
  stop(structure(class = kinds, list(message = sprintf(...), call = NULL)))
}
