package api

import (
	"net/http"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
)

const (
	// maxBatchBody bounds the body of a batch: 4 KiB for each spawn.
	maxBatchBody = v1.MaxSpawnBatch * 4 << 10

	// batchWorkers is how many spawns of one batch run at a time. Their entries share the log's commits.
	batchWorkers = 16
)

// spawnBatch runs each spawn like a request of its own: none harms another, and a retry of the batch is a retry of each.
func (s *Server) spawnBatch(c *call, q *v1.SpawnBatch) (v1.SpawnBatchResults, error) {
	n := len(q.Spawns)
	if n == 0 || n > v1.MaxSpawnBatch {
		return v1.SpawnBatchResults{}, invalid(codeBadRequest, "spawns", "1 to "+strconv.Itoa(v1.MaxSpawnBatch)+" spawns")
	}
	out := v1.SpawnBatchResults{Results: make([]v1.SpawnResult, n)}
	sideBySide(n, batchWorkers, func(i int) { out.Results[i] = s.spawnOne(c, &q.Spawns[i]) })
	return out, nil
}

// spawnOne is one spawn of a batch. A fault in it is its own.
func (s *Server) spawnOne(c *call, q *v1.SpawnRequest) (out v1.SpawnResult) {
	defer func() {
		if v := recover(); v != nil {
			out = s.spawnFailed(c, s.fault(c, v))
		}
	}()
	agent, err := s.spawn(c, q)
	if err != nil {
		return s.spawnFailed(c, err)
	}
	return v1.SpawnResult{Status: http.StatusCreated, Agent: &agent}
}

// spawnFailed is a refusal as a problem, with its entry.
func (s *Server) spawnFailed(c *call, err error) v1.SpawnResult {
	e, status := s.judge(c, err)
	p := problemOf(e)
	return v1.SpawnResult{Status: status, Problem: &p}
}
