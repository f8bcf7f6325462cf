"""What everyspan costs, beside what the machine allows and what its peers cost."""
