package hsm

// ReadPIN reads a PIN file as [Open] does, for those who need an authorisation value from a file of the same kind. The content never
// stands in the error.
func ReadPIN(path string) (string, error) { return readPIN(path) }
