package ocsf

import (
	"slices"

	"github.com/signet-pki/signet/audit/record"
)

// Activity is the class's activity_id.
type Activity int

// The activities.
const (
	Create Activity = 1
	Read   Activity = 2
	Update Activity = 3
	Delete Activity = 4
	Other  Activity = 99 // its activity_name is the operation
)

func (a Activity) name(operation string) string {
	switch a {
	case Create:
		return "Create"
	case Read:
		return "Read"
	case Update:
		return "Update"
	case Delete:
		return "Delete"
	case Other:
	}
	return operation
}

// Severity is severity_id.
type Severity int

// The severities.
const (
	Informational Severity = 1
	Low           Severity = 2
	Medium        Severity = 3
	High          Severity = 4
)

func (s Severity) String() string {
	switch s {
	case Informational:
		return "Informational"
	case Low:
		return "Low"
	case Medium:
		return "Medium"
	case High:
		return "High"
	}
	return "Unknown"
}

// Status is status_id. The zero Status is Unknown.
type Status int

// The statuses.
const (
	Unknown Status = 0
	Success Status = 1
	Failure Status = 2
)

func (s Status) String() string {
	switch s {
	case Success:
		return "Success"
	case Failure:
		return "Failure"
	case Unknown:
	}
	return "Unknown"
}

// row says what entries of one type are.
type row struct {
	activity Activity
	status   Status
	severity Severity
	by       []kind // who may have asked: the first one that the envelope names
}

// table has a row for each type of entry. Who asked is an operator wherever one is named.
var table = map[record.Type]row{
	record.TypeCeremony:     {Create, Success, Informational, nil},
	record.TypeGrant:        {Create, Success, Informational, []kind{orchestrator, person}},
	record.TypeTask:         {Create, Success, Informational, []kind{orchestrator}},
	record.TypeIssue:        {Create, Success, Informational, []kind{service, parent, orchestrator}},
	record.TypeEnrollment:   {Create, Success, Informational, []kind{parent, orchestrator}},
	record.TypeToken:        {Create, Success, Informational, []kind{agent}},
	record.TypeIssueFailed:  {Create, Failure, Medium, nil},
	record.TypeIssueUnknown: {Create, Unknown, Medium, nil},
	record.TypeTokenFailed:  {Create, Failure, Medium, nil},
	record.TypeDecision:     {Read, Failure, Low, []kind{service, agent}},
	record.TypeDeny:         {Other, Failure, Low, []kind{service, parent, orchestrator, agent, person, nobody}},
	record.TypeMalformed:    {Other, Failure, Low, []kind{nobody}},
	record.TypeRevoke:       {Delete, Success, Low, []kind{service, orchestrator, agent, person}},
	record.TypeAdmin:        {Update, Success, Low, []kind{orchestrator, service, person}},
	record.TypePolicy:       {Update, Success, Medium, nil},
	record.TypeRedact:       {Delete, Success, Medium, nil},
	record.TypePrune:        {Delete, Success, Low, nil},
	record.TypeDevice:       {Other, Unknown, High, nil},
	record.TypeSeal:         {Create, Success, Informational, nil},
	record.TypeAlarm:        {Other, Unknown, High, nil},
	record.TypeAct:          {Update, Success, High, nil},
	record.TypeRotation:     {Update, Success, High, nil},
}

// opEvaluation is what a decision is called in denials.
const opEvaluation = "access.evaluation"

// own are operations that an agent asks for itself.
var own = []string{"agent.rekey", "agent.enroll", "token.issue", opEvaluation}

// refine turns to what the body alone knows.
func (r row) refine(t record.Type, d details) row {
	switch {
	case t == record.TypeDecision && d.Allow:
		r.status, r.severity = Success, Informational
	case t == record.TypeTask && d.Status == "completed":
		r.activity = Update
	case t == record.TypeIssue && (d.Rekey != nil || d.Enrollment != ""):
		r.by = []kind{agent}
	case t == record.TypeDeny && slices.Contains(own, d.Operation):
		r.by = []kind{service, agent, nobody}
	}
	return r
}

// kind is what somebody is. The values are the words of SPIFFE IDs where there is one.
type kind string

const (
	operator     kind = "operator"
	service      kind = "service"
	orchestrator kind = "orchestrator"
	agent        kind = "agent"
	parent       kind = "parent" // an agent
	person       kind = "user"
	nobody       kind = "unknown" // not authenticated
	appliance    kind = "appliance"
)

// identity is who asked, as far as the entry tells: never an address.
type identity struct {
	kind kind
	name string
}

func (i identity) uid() string {
	if i.name == "" {
		return string(i.kind)
	}
	return string(i.kind) + "/" + i.name
}

func (r row) caller(env record.Envelope, d details) identity {
	if env.Operator != "" {
		return identity{operator, env.Operator}
	}
	for _, k := range r.by {
		switch name := nameOf(env, d, k); {
		case k == parent && name != "":
			return identity{agent, name}
		case name != "" || k == nobody:
			return identity{k, name}
		}
	}
	return identity{kind: appliance}
}

func nameOf(env record.Envelope, d details, k kind) string {
	switch k {
	case service:
		return env.Service
	case orchestrator:
		return env.Orchestrator
	case agent:
		return env.Agent
	case parent:
		return env.Parent
	case person:
		return env.User
	case nobody:
		return d.Caller
	case operator, appliance:
	}
	return ""
}

// actingUser is the person in whose name it was done, by pseudonym; where there is none, and where an operator acts, for whom
// a user is a thing to act on, it is who asked.
func actingUser(env record.Envelope, by identity) user {
	switch {
	case by.kind == operator:
		return user{by.uid(), by.name, 2, "Admin"}
	case env.User != "":
		return user{UID: env.User, TypeID: 1, Type: "User"}
	case by.kind == appliance:
		return user{by.uid(), "", 3, "System"}
	case by.kind == nobody:
		return user{by.uid(), by.name, 0, "Unknown"}
	}
	return user{by.uid(), by.name, 4, "Service"}
}
