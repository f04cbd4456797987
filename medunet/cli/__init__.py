"""The command line: every command parses, calls one public function, and prints."""
