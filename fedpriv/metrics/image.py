"""Image quality of a reconstruction: MSE, PSNR and SSIM on the scale [0, 1]; see `fedpriv.data.kinds.image_quality`."""

from fedpriv.data.kinds.image_quality import checked_pair, mse, psnr, psnr_of_mse, ssim, ssim_defined

__all__ = ["checked_pair", "mse", "psnr", "psnr_of_mse", "ssim", "ssim_defined"]
