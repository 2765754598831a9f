"""How far two models' predictions are apart, token by token, and what that says with which confidence."""
