"""Pages for people, where a link in a mail leads: plain HTML, without scripts and without anything from elsewhere."""
