"""`python -m fedpriv_experiments.private_salaries`."""

from fedpriv_experiments import script
from fedpriv_experiments.private_salaries.command import salaries

if __name__ == "__main__":
    script.run(salaries)
