"""One file per filter. A filter measures one property of a clip; it never decides."""
