package record

// Events of alarms about witnesses (docs/formats/witness.md). Each is raised at most once a day for one witness or log.
const (
	EventWitnessConflict = "witness_conflict" // a witness of this log knows another tree than this one
	EventLogFork         = "log_fork"         // a log that this appliance witnesses signed two roots at one size
)

// WitnessAlarmBody is the body of an alarm of these events.
type WitnessAlarmBody struct {
	Event   string `json:"event"`
	Witness string `json:"witness,omitempty"` // verifier key of the witness that answered so
	Log     string `json:"log,omitempty"`     // origin of the log that is forked
	Size    uint64 `json:"size"`              // of the checkpoint that was asked about
	Root    string `json:"root"`              // its root, hex
	Other   uint64 `json:"other,omitempty"`   // the size that the witness has
	Detail  string `json:"detail,omitempty"`  // what the witness answered
	// Checkpoint is the other signed note, the proof of a fork.
	Checkpoint string `json:"checkpoint,omitempty"`
}
