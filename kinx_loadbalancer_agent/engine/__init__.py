"""One engine that makes a candidate state live, proves it and only then keeps it."""
