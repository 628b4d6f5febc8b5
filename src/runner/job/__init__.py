"""One job in its folder: built, resumed, trained and recorded."""
