package main

import (
	"fmt"

	lua "github.com/yuin/gopher-lua"
)

type argoQuestion struct {
	Script string `json:"script"`
	Object any    `json:"object"`
}

type argoAnswer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// argo says what Argo CD makes of an object by a health check in Lua: it runs the script by this same interpreter, with
// the object as the global obj, and reads the table that comes back.
func argo(question []byte) (any, error) {
	asked := read[argoQuestion](question)
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	// Argo CD opens these, and nothing that reaches the machine.
	for _, open := range []lua.LGFunction{lua.OpenBase, lua.OpenTable, lua.OpenString, lua.OpenMath} {
		state.Push(state.NewFunction(open))
		state.Call(0, 0)
	}
	state.SetGlobal("obj", toLua(state, asked.Object))
	if err := state.DoString(asked.Script); err != nil {
		return nil, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return nil, fmt.Errorf("the script returned %s, not a table", state.Get(-1).Type())
	}
	return argoAnswer{
		Status:  table.RawGetString("status").String(),
		Message: table.RawGetString("message").String(),
	}, nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case bool:
		return lua.LBool(value)
	}
	return lua.LNil
}
