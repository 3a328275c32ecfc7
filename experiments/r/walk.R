# The walk of docs/r.md in one piece: Rscript experiments/r/walk.R [folder for the figures]
library(fedprivr)
library(ggplot2)
out <- c(commandArgs(trailingOnly = TRUE), tempdir())[1]
dir.create(out, recursive = TRUE, showWarnings = FALSE)

# The federated mean
celsius <- (airquality$Temp - 32) * 5 / 9
together <- fp_mean(celsius, airquality$Month)
print(c(federated = as.numeric(together), in_one_place = mean(celsius)))
print(attr(together, "held")[["5"]])

# Data frames, factors and NA
refused <- tryCatch(fp_dataset(airquality, target = "Temp"), fedpriv_error = function(e) e)
cat(conditionMessage(refused), "\n")
flowers <- fp_dataset(iris, target = "Species")
print(flowers)
print(fp_train(flowers, "logistic", clients = 10, cohort = 10, rounds = 20, rate = 0.3, seed = 1), n = 3)

# Image classification with a Keras model
keras <- reticulate::import("tensorflow")$keras
keras$utils$set_random_seed(1L)
net <- keras$Sequential(list(
  keras$layers$Flatten(input_shape = list(28L, 28L, 1L)),
  keras$layers$Dense(64L, "relu"),
  keras$layers$Dense(10L)
))
training <- fp_train("fashion_small", net, clients = 100, cohort = 10, rounds = 15, seed = 1)
print(training, n = 5)

# Intercept updates, and reconstruct
listen <- function(...) {
  fp_train("fashion_small", net, clients = 10000, cohort = 4, batch = NULL, rounds = 1, intercept = 1, seed = 1, ...)
}
plain <- fp_attack("first_layer", on = listen())
print(plain)

# Defend
noisy <- fp_attack("first_layer", on = listen(defenses = "local_dp(clip=1,noise_multiplier=0.1)"))
print(noisy[c("update", "image", "psnr", "success")])
summed <- fp_attack("first_layer", on = listen(defenses = "secret_sharing(aggregators=3)"))
print(summed[c("update", "image", "psnr", "success")])
private <- fp_train("fashion_small", net, clients = 100, cohort = 50, rounds = 15, weighting = "uniform", seed = 1,
                    defenses = "central_dp(clip=1,noise_multiplier=1)")
print(private, n = 3)

# Draw
pixels <- rbind(
  transform(fp_images(plain), shown = ifelse(what == "original", "original", "no defense")),
  transform(subset(fp_images(noisy), what == "found"), shown = "noise")
)
pixels$shown <- factor(pixels$shown, c("original", "no defense", "noise"))
images <- ggplot(pixels, aes(column, -row, fill = value)) +
  geom_raster(show.legend = FALSE) +
  facet_grid(shown ~ image) +
  scale_fill_gradient(low = "black", high = "white", limits = c(0, 1), oob = scales::squish) +
  coord_equal() +
  theme_void()
ggsave(file.path(out, "reconstructions.png"), images, width = 5, height = 3.5, dpi = 100)

both <- rbind(
  cbind(training[c("round", "accuracy")], defense = "none"),
  cbind(private[c("round", "accuracy")], defense = "central DP")
)
curves <- ggplot(both, aes(round, accuracy, colour = defense)) + geom_line()
ggsave(file.path(out, "accuracy.png"), curves, width = 5, height = 3, dpi = 100)

# A round from elsewhere
stored <- Sys.glob(c("tests/capture/stored", "../../tests/capture/stored"))[1]
flower <- function(what) file.path(stored, paste0("flower_", what, ".npz"))
capture <- fp_try(fp("capture")$captured(
  fp()$load_model("mlp(hidden=[40],activation=relu)", input_shape = list(14L, 14L, 1L), num_classes = 10L),
  before = flower("before"), after = flower("client0_after"), procedure = "epochs=2, lr=0.05", examples = 2
))
truth <- reticulate::import("numpy")$load(flower("truth"))
cat(capture$check(truth$get("x"), truth$get("y"))$describe(), "\n")
elsewhere <- fp_attack("first_layer", on = capture$observation(truth$get("x"), truth$get("y")))
print(elsewhere[c("update", "image", "psnr", "success")])

# A grid
grid <- fp_run(Sys.glob(c("grid.yaml", "experiments/r/grid.yaml"))[1], file.path(out, "grid"))
print(grid)
grid$defense <- factor(grid$defense, unique(grid$defense))
boxes <- ggplot(grid, aes(defense, psnr)) + geom_boxplot() + labs(x = NULL, y = "PSNR (dB)")
ggsave(file.path(out, "grid.png"), boxes, width = 5, height = 3, dpi = 100)
