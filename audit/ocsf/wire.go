package ocsf

// wire is an event of class 6003. The order of fields is the order in which they are written.
type wire struct {
	ActivityID   Activity   `json:"activity_id"`
	ActivityName string     `json:"activity_name"`
	CategoryUID  int        `json:"category_uid"`
	ClassUID     int        `json:"class_uid"`
	ClassName    string     `json:"class_name"`
	TypeUID      int        `json:"type_uid"`
	Time         int64      `json:"time"`
	SeverityID   Severity   `json:"severity_id"`
	Severity     string     `json:"severity"`
	StatusID     Status     `json:"status_id"`
	Status       string     `json:"status"`
	StatusCode   string     `json:"status_code,omitempty"`
	StatusDetail string     `json:"status_detail,omitempty"`
	Message      string     `json:"message"`
	Metadata     metadata   `json:"metadata"`
	Actor        actor      `json:"actor"`
	API          api        `json:"api"`
	Source       endpoint   `json:"src_endpoint"`
	Resources    []resource `json:"resources,omitempty"`
	Unmapped     unmapped   `json:"unmapped"`
	RawData      string     `json:"raw_data"`
}

type metadata struct {
	Version      string `json:"version"`
	Product      named  `json:"product"`
	LogName      string `json:"log_name"`
	EventCode    string `json:"event_code"`
	UID          string `json:"uid"`
	Sequence     uint64 `json:"sequence"`
	OriginalTime string `json:"original_time"`
}

type named struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name,omitempty"`
}

type actor struct {
	User user `json:"user"`
}

type user struct {
	UID    string `json:"uid"`
	Name   string `json:"name,omitempty"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type api struct {
	Operation string `json:"operation"`
	Service   named  `json:"service"`
}

type endpoint struct {
	UID  string `json:"uid"`
	Name string `json:"name,omitempty"`
}

type resource struct {
	UID  string `json:"uid,omitempty"`
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty"`
}

// unmapped is what has no attribute in the schema: where the entry stands, and the ids of its envelope.
type unmapped struct {
	Origin       string `json:"origin"`
	Index        uint64 `json:"index"`
	LeafHash     string `json:"leaf_hash"`
	Task         string `json:"task,omitempty"`
	Grant        string `json:"grant,omitempty"`
	Agent        string `json:"agent,omitempty"`
	Parent       string `json:"parent,omitempty"`
	Orchestrator string `json:"orchestrator,omitempty"`
	Service      string `json:"service,omitempty"`
	Operator     string `json:"operator,omitempty"`
	User         string `json:"user,omitempty"`
	Policy       string `json:"policy,omitempty"`
	Action       string `json:"action,omitempty"`
}
